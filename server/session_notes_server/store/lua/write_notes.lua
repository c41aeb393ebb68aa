-- ARGV  2 session id, 3 default session ttl (ms), 4 observer, 5 run id, 6 observed turn or '', 7 notes, 8 their digest,
--       9 their ttl (µs) or '', 10 the session's former ttl (ms) or ''
-- → { tag, 'ACCEPTED' | 'DUPLICATE' | 'SUPERSEDED', run },
--   or { tag, 'SESSION_DELETED' | 'RUN_WROTE_OTHER_NOTES' | 'RUN_ALREADY_FAILED' | 'RUNS_TOO_LARGE', … }
local session_id, default_ttl, observer, run_id = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local observed, notes, digest, ttl = number_or_nil(ARGV[6]), ARGV[7], ARGV[8], number_or_nil(ARGV[9])

if known_at_deletion(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

drop_leftovers(redis.call('HGET', SESSION, 'created'))
local run = find_run(observer, run_id)
if run and run.digest then
  if run.digest ~= digest then return { TAG, 'RUN_WROTE_OTHER_NOTES' } end
  return { TAG, 'DUPLICATE', run_reply(run) }
end
if run and run.state == FAILED then return { TAG, 'RUN_ALREADY_FAILED' } end

local state = load_observer(observer)
local no_room = make_room(observer, state, #notes)
if no_room then return no_room end
run = run or new_run(observer, state, run_id)
run.observed = observed or run.observed
run.ended = NOW
run.digest = digest
run.expires = ttl and NOW + ttl or nil
no_longer_running(observer, state, run.number)

-- The mark to beat: the current notes, also when their ttl has passed.
local previous = state.current
local mark = previous and load_run(observer, previous)
if previous and (run.number < previous or (mark and mark.observed and run.observed and run.observed < mark.observed)) then
  run.state = SUPERSEDED
else
  run.state = WRITTEN
  state.current = run.number
  if previous then
    if mark and expired(mark) then drop(run_field('p', observer, previous)) end
    retire(observer, state, previous)
  end
end
save_payload(observer, state, run, notes)
save_run(observer, run)
save_observer(observer, state)
touch(session_id, default_ttl, ARGV[10])
return { TAG, run.state == WRITTEN and 'ACCEPTED' or 'SUPERSEDED', run_reply(run) }
