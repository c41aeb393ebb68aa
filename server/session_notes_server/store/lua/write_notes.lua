-- Arguments, as locals: `WriteNotes` in scripts.py.
-- Reply: { 'ACCEPTED' | 'DUPLICATE' | 'SUPERSEDED', run }, or
--   { 'SESSION_DELETED' | 'RUN_WROTE_OTHER_NOTES' | 'RUN_ALREADY_FAILED' | 'RUNS_TOO_LARGE', … }.
if was_deleted(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

drop_leftovers(redis.call('HGET', SESSION, 'created'))
local run = find_run(observer, run_id)
if run and run.digest then
  if run.digest ~= digest then return { TAG, 'RUN_WROTE_OTHER_NOTES' } end
  return { TAG, 'DUPLICATE', run_reply(run) }
end
if run and run.state == FAILED then return { TAG, 'RUN_ALREADY_FAILED' } end

local state = load_observer(observer)
local refusal = make_room(observer, state, #notes)
if refusal then return refusal end
run = run or new_run(observer, state, run_id)
run.observed = observed_turn or run.observed
run.ended = NOW
run.digest = digest
run.expires = ttl_us and NOW + ttl_us or nil
prune_in_flight(observer, state, run.number)

local previous = state.current
local mark = load_current(observer, state)
if is_superseded(state, run, mark) then
  run.state = SUPERSEDED
else
  run.state = WRITTEN
  state.current = run.number
  if previous then
    if mark and has_expired(mark) then delete_run_field(run_field('p', observer, previous)) end
    retire(observer, state, previous)
  end
end
save_payload(observer, state, run, notes)
save_run(observer, run)
save_observer(observer, state)
touch(session_id, default_ttl_ms, former_ttl_ms)
return { TAG, run.state == WRITTEN and 'ACCEPTED' or 'SUPERSEDED', run_reply(run) }
