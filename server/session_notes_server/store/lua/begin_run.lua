-- Arguments, as locals: `BeginRun` in scripts.py.
-- Reply: { 'OK', 1 (started) or 0, run, failure reason, { turn, … }, the session's own ttl (ms) or '' }, or
--   { 'SESSION_DELETED' | 'RUNS_TOO_LARGE', … }, or { 'LARGE', bytes } for a transcript larger than max_reply_bytes, with
--   nothing changed. Not started: only_if_idle was set, and the run is another one in flight.
if was_deleted(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

local session = redis.call('HMGET', SESSION, 'turns', 'turn_bytes', 'ttl', 'created')
local turn_count, own_ttl = tonumber(session[1] or 0), session[3] or ''
local large = include_transcript and too_large(tonumber(session[2] or 0), max_reply_bytes)
if large then return large end

drop_leftovers(session[4])
local run = find_run(observer, run_id)
if not run then
  local state = load_observer(observer)
  prune_in_flight(observer, state, nil)
  if only_if_idle then
    for i = #state.running, 1, -1 do
      local in_flight = load_run(observer, state.running[i][1])
      if in_flight then return { TAG, 'OK', 0, run_reply(in_flight), '', {}, own_ttl } end
    end
  end
  local refusal = make_room(observer, state, 0)
  if refusal then return refusal end

  run = new_run(observer, state, run_id)
  run.began = NOW
  run.lease = NOW + lease_us
  run.turns = turn_count
  run.observed = observed_turn or (turn_count > 0 and turn_count or nil)
  state.running[#state.running + 1] = { run.number, run.lease }
  if #state.running > MAX_RUNS_IN_FLIGHT then
    local number = table.remove(state.running, 1)[1]
    local oldest = load_run(observer, number)
    if oldest then
      oldest.lease = NOW
      save_run(observer, oldest)
    end
    keep_as_late(observer, state, number)
  end
  save_run(observer, run)
  save_observer(observer, state)
  touch(session_id, default_ttl_ms)
end

local transcript = {}
if include_transcript then
  -- Leave out turns appended after the snapshot, so that a retry gets the same transcript as the first call.
  transcript = redis.call('LRANGE', TURNS, 0, (run.turns or turn_count) - turn_count - 1)
end
return { TAG, 'OK', 1, run_reply(run), failure_of(observer, run), transcript, own_ttl }
