-- ARGV  2 observer, 3 only runs below this number, or '', 4 how many at most, 5 '1': with their notes,
--       6 how many bytes of notes at most, or ''
-- → { tag, { { run, why it failed, notes or false }, … }, 1 or 0: there are more }, or { tag, 'LARGE', bytes }
local observer, below, limit, with_notes = ARGV[2], number_or_nil(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local most, bytes = number_or_nil(ARGV[6]), 0

local seq = load_observer(observer).seq
local oldest = math.max(1, seq - HISTORY + 1)
local number = math.min(seq, (below or seq + 1) - 1)
local runs = {}
while number >= oldest and #runs < limit do
  local run = load_run(observer, number)
  if run then
    local notes = with_notes and run.digest and not expired(run) and load_payload(observer, number)
    bytes = bytes + #(notes or '')
    local too_large = large(bytes, most)
    if too_large then return too_large end
    runs[#runs + 1] = { run_reply(run), failure_of(observer, run), notes or false }
  end
  number = number - 1
end
return { TAG, runs, number >= oldest and 1 or 0 }
