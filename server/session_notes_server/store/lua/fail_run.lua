-- Arguments, as locals: `FailRun` in scripts.py.
-- Reply: { 'OK', run, failure reason }, or { 'SESSION_DELETED' | 'RUN_NOT_FOUND' | 'RUN_ALREADY_WRITTEN' }.
if was_deleted(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

local run = redis.call('EXISTS', SESSION) == 1 and find_run(observer, run_id)
if not run then return { TAG, 'RUN_NOT_FOUND' } end
if run.digest then return { TAG, 'RUN_ALREADY_WRITTEN' } end
if run.state ~= FAILED then
  local state = load_observer(observer)
  run.state = FAILED
  run.ended = NOW
  prune_in_flight(observer, state, run.number)
  save_payload(observer, state, run, reason)
  save_run(observer, run)
  save_observer(observer, state)
  touch(session_id, default_ttl_ms)
end
return { TAG, 'OK', run_reply(run), failure_of(observer, run) }
