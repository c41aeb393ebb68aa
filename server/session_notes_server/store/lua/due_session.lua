-- Arguments, as locals: `DueSession` in scripts.py.
-- Reply: { turn count, turns behind, µs since the last turn, run_reply of the latest run, failure reason }, or { false } if the
--   session is not due.
local session = redis.call('HMGET', SESSION, 'turns', 'turned', 'updated', 'o:' .. observer)
local turn_count = tonumber(session[1] or 0)
local quiet = math.max(0, NOW - tonumber(session[2] or session[3] or NOW))
if turn_count == 0 or quiet < min_quiet_us then return { TAG, false } end

local state = unpack_or_nil(session[4]) or { seq = 0, running = {} }
for _, entry in ipairs(state.running) do
  if entry[2] > NOW and load_run(observer, entry[1]) then return { TAG, false } end
end
local latest = load_run(observer, state.seq)
local since_latest = latest and math.max(0, NOW - (latest.began or latest.ended))
if latest and since_latest < min_interval_us then return { TAG, false } end

local current = load_current(observer, state)
local seen = current and not has_expired(current) and current.observed or 0
local behind = math.max(0, turn_count - seen)
if behind < min_turns_behind then return { TAG, false } end
return { TAG, turn_count, behind, quiet, run_reply(latest), failure_of(observer, latest) }
