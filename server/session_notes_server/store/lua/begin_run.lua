-- Arguments, as locals: `BeginRun` in scripts.py.
-- Reply: { 'OK', 1 (started) or 0, run, failure reason, { turn, … }, number of the first of these turns or false,
--   the reply of get_notes.lua if include_current_notes or false, the session's own ttl (ms) or '' }, or
--   { 'SESSION_DELETED' | 'RUNS_TOO_LARGE', … }, or { 'LARGE', bytes } for turns and notes larger than max_reply_bytes, with
--   nothing changed. Not started: only_if_idle was set, and the run is another one in flight.
if was_deleted(observer, run_id) then return { TAG, 'SESSION_DELETED' } end

local session = redis.call('HMGET', SESSION, 'turns', 'turn_bytes', 'ttl', 'created')
local turn_count, own_ttl = tonumber(session[1] or 0), session[3] or ''
drop_leftovers(session[4])
local run = find_run(observer, run_id)
local state = load_observer(observer)

local function newest_in_flight()
  for i = #state.running, 1, -1 do
    local entry = state.running[i]
    local in_flight = entry[2] > NOW and load_run(observer, entry[1])
    if in_flight then return in_flight end
  end
end
local other = not run and only_if_idle and newest_in_flight() or nil

-- Return how many turns the run of the current notes has seen: none if there are no current notes, or their ttl has passed.
local function seen_by_current_notes()
  local current = load_current(observer, state)
  return current and not has_expired(current) and current.observed or 0
end

-- The window: turns after number `after`, up to the snapshot. A repeated call gets the window of the first call.
local after, last = 0, turn_count
if run then
  after, last = run.after or 0, run.turns or turn_count
elseif include_transcript then
  after = after_turn or after_current_notes and seen_by_current_notes() or 0
  if max_turns > 0 then after = math.max(after, turn_count - max_turns) end
end

-- Read the turns with these numbers, as far as the caller gets any and they are stored. The last one stored is number `turn_count`.
local function turns_between(from, to)
  if not include_transcript or other or from > to then return {} end
  return redis.call('LRANGE', TURNS, from - turn_count - 1, to - turn_count - 1)
end

if max_reply_bytes then
  local size = include_current_notes and state.current and redis.call('HSTRLEN', RUNS, run_field('p', observer, state.current)) or 0
  if size + tonumber(session[2] or 0) > max_reply_bytes then
    for number = last, after + 1, -1 do
      local turn = turns_between(number, number)[1]
      if not turn or size > max_reply_bytes then break end
      size = size + #turn
    end
  end
  local large = too_large(size, max_reply_bytes)
  if large then return large end
end

if not run and not other then
  prune_in_flight(observer, state, nil)
  local refusal = make_room(observer, state, 0)
  if refusal then return refusal end

  run = new_run(observer, state, run_id)
  run.began = NOW
  run.lease = NOW + lease_us
  run.turns = turn_count
  run.after = after > 0 and after or nil
  run.observed = observed_turn or (turn_count > 0 and turn_count or nil)
  add_in_flight(observer, state, run)
  save_run(observer, run)
  save_observer(observer, state)
  touch(session_id, default_ttl_ms)
end

local transcript = turns_between(after + 1, last)
local first = #transcript > 0 and last - #transcript + 1
local reading = include_current_notes and { NOW, session[1] and turn_count or false, redis.call('PTTL', SESSION),
  observer_reply(observer, redis.call('HGET', SESSION, 'o:' .. observer)) }
local answer = other or run
return { TAG, 'OK', other and 0 or 1, run_reply(answer), failure_of(observer, answer), transcript, first, reading, own_ttl }
