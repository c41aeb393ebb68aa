-- ARGV  2 session id, 3 default session ttl (ms), 4 observer, 5 run id, 6 why
-- → { tag, 'OK', run, why it failed }, or { tag, 'SESSION_DELETED' | 'RUN_NOT_FOUND' | 'RUN_ALREADY_WRITTEN' }
local session_id, default_ttl, observer, run_id, reason = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

if known_at_deletion(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

drop_leftovers(redis.call('HGET', SESSION, 'created'))
local run = find_run(observer, run_id)
if not run then return { TAG, 'RUN_NOT_FOUND' } end
if run.digest then return { TAG, 'RUN_ALREADY_WRITTEN' } end
if run.state ~= FAILED then
  local state = load_observer(observer)
  run.state = FAILED
  run.ended = NOW
  no_longer_running(observer, state, run.number)
  save_payload(observer, state, run, reason)
  save_run(observer, run)
  save_observer(observer, state)
  touch(session_id, default_ttl)
end
return { TAG, 'OK', run_reply(run), failure_of(observer, run) }
