-- Arguments, as locals: `RenewRun` in scripts.py.
-- Reply: { 'OK', run, 1 (its write would be superseded) or 0, number of turns appended since its snapshot }, or
--   { 'SESSION_DELETED' | 'RUN_NOT_FOUND' | 'RUN_ALREADY_WRITTEN' | 'RUN_ALREADY_FAILED' }.
if was_deleted(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

local session = redis.call('HMGET', SESSION, 'turns', 'created')
local run = session[2] and find_run(observer, run_id)
if not run then return { TAG, 'RUN_NOT_FOUND' } end
if run.digest then return { TAG, 'RUN_ALREADY_WRITTEN' } end
if run.state == FAILED then return { TAG, 'RUN_ALREADY_FAILED' } end

local state = load_observer(observer)
local obsolete = is_superseded(state, run, load_current(observer, state))
-- An abandoned run whose write would be superseded stays abandoned.
if run.lease > NOW or not obsolete then
  run.lease = NOW + lease_us
  if is_in_flight(state, run.number) then
    for _, entry in ipairs(state.running) do
      if entry[1] == run.number then entry[2] = run.lease end
    end
    prune_in_flight(observer, state, nil)
  else
    -- First, so that no other late run takes the place of this one, which would forget it.
    local late = {}
    for _, number in ipairs(state.late or {}) do
      if number ~= run.number then late[#late + 1] = number end
    end
    state.late = late
    prune_in_flight(observer, state, nil)
    add_in_flight(observer, state, run)
  end
  save_run(observer, run)
  save_observer(observer, state)
  touch(session_id, default_ttl_ms)
end
return { TAG, 'OK', run_reply(run), obsolete and 1 or 0, tonumber(session[1] or 0) - run.turns }
