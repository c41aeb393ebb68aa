-- ARGV  2 session id, 3 default session ttl (ms), 4 observer, 5 run id, 6 observed turn or '', 7 lease (µs), 8 '1': only if idle,
--       9 '1': with the transcript, 10 how many bytes of it at most, or ''
-- → { tag, 'OK', 1 or 0: started, run, why it failed, { turn, … }, the session's own ttl (ms) or '' }, or { tag, 'SESSION_DELETED' | 'RUNS_TOO_LARGE', … },
--   or { tag, 'LARGE', bytes }: the transcript is larger, and nothing is done
local session_id, default_ttl, observer, run_id = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local observed, lease, only_if_idle, with_transcript = number_or_nil(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1', ARGV[9] == '1'

if known_at_deletion(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

local found = redis.call('HMGET', SESSION, 'turns', 'turn_bytes', 'ttl', 'created')
local turns = tonumber(found[1] or 0)
local too_large = with_transcript and large(tonumber(found[2] or 0), number_or_nil(ARGV[10]))
if too_large then return too_large end

drop_leftovers(found[4])
local run = find_run(observer, run_id)
if not run then
  local state = load_observer(observer)
  no_longer_running(observer, state, nil)
  if only_if_idle then
    for i = #state.running, 1, -1 do
      local in_flight = load_run(observer, state.running[i][1])
      if in_flight then return { TAG, 'OK', 0, run_reply(in_flight), '', {}, found[3] or '' } end
    end
  end
  local no_room = make_room(observer, state, 0)
  if no_room then return no_room end

  run = new_run(observer, state, run_id)
  run.began = NOW
  run.lease = NOW + lease
  run.turns = turns
  run.observed = observed or (turns > 0 and turns or nil)
  state.running[#state.running + 1] = { run.number, run.lease }
  if #state.running > IN_FLIGHT then
    local number = table.remove(state.running, 1)[1]
    local oldest = load_run(observer, number)
    if oldest then
      oldest.lease = NOW
      save_run(observer, oldest)
    end
    leaves(observer, state, number)
  end
  save_run(observer, run)
  save_observer(observer, state)
  touch(session_id, default_ttl)
end

local transcript = {}
if with_transcript then
  -- Turns that came after the snapshot are left out: a retry gets what the first call got.
  transcript = redis.call('LRANGE', TURNS, 0, (run.turns or turns) - turns - 1)
end
return { TAG, 'OK', 1, run_reply(run), failure_of(observer, run), transcript, found[3] or '' }
