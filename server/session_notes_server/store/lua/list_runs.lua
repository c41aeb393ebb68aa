-- Arguments, as locals: `ListRuns` in scripts.py.
-- Reply: { { { run, failure reason, notes or false }, … }, 1 if there are more runs or 0 }, or { 'LARGE', bytes } if the notes are
--   larger than max_reply_bytes.
local seq = load_observer(observer).seq
local oldest = math.max(1, seq - HISTORY_RUNS + 1)
local number = math.min(seq, (below or seq + 1) - 1)
local runs, bytes = {}, 0
while number >= oldest and #runs < limit do
  local run = load_run(observer, number)
  if run then
    local notes = include_notes and run.digest and not has_expired(run) and load_payload(observer, number)
    bytes = bytes + #(notes or '')
    local large = too_large(bytes, max_reply_bytes)
    if large then return large end
    runs[#runs + 1] = { run_reply(run), failure_of(observer, run), notes or false }
  end
  number = number - 1
end
return { TAG, runs, number >= oldest and 1 or 0 }
