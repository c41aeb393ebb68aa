-- Shared by the scripts that change a session. A store creates all these functions for every call, so scripts that only read
-- do without them: GetNotes takes a fifth less of the store's time.

-- Read a list argument: its length at `position`, then its elements. Return the list and the position after it.
local function read_list(position)
  local list, last = {}, position + tonumber(ARGV[position])
  for i = position + 1, last do list[#list + 1] = ARGV[i] end
  return list, last + 1
end

-- Return a whole number as text. Lua's own conversion approximates large numbers, like 1.7e+15.
local function integer(number)
  return string.format('%d', number)
end

-- Remove the leftovers of an earlier session with this id, if the session does not exist (`created` is false). A script that
-- creates a session calls this before it uses any key but the hash. A refused call leaves them, as a deletion needs their ids.
local function drop_leftovers(created)
  if not created then redis.call('UNLINK', TURNS, RUNS, IDS) end
end

-- Bytes that this script has added to RUNS. `touch` stores the sum.
local grown = 0

local function set_run_field(field, value)
  local old_size = redis.call('HSTRLEN', RUNS, field)
  redis.call('HSET', RUNS, field, value)
  grown = grown + #value - old_size + (old_size == 0 and #field or 0)
end

local function delete_run_field(field)
  local size = redis.call('HSTRLEN', RUNS, field)
  if redis.call('HDEL', RUNS, field) == 1 then grown = grown - size - #field end
end

local function save_observer(observer, state)
  if redis.call('HSET', SESSION, 'o:' .. observer, cmsgpack.pack(state)) == 1 then
    grown = grown + OBSERVER_COST_BYTES
    redis.call('HSET', SESSION, 'observers', (redis.call('HGET', SESSION, 'observers') or '') .. ' ' .. observer)
  end
end

local function save_run(observer, run)
  set_run_field(run_field('r', observer, run.number), cmsgpack.pack(run))
end

-- Store a run's payload, if the run is in the history or its notes are current.
local function save_payload(observer, state, run, payload)
  if run.number == state.current or run.number > state.seq - HISTORY_RUNS then
    set_run_field(run_field('p', observer, run.number), payload)
  end
end

-- The observer whose "runs" are the appends with an id.
local APPENDS = ''

-- Rebuild IDS from the runs and appends, if the store has lost only that key. Otherwise a late write would be mistaken for a new
-- run's and become current, and a deletion would not know what to refuse.
-- Return whether there were any.
local function restore_ids()
  if redis.call('EXISTS', IDS) == 1 then return false end
  local restored = false
  local function restore(observer, number)
    local run = load_run(observer, number)
    if run then
      redis.call('HSET', IDS, observer .. ' ' .. run.id, integer(number))
      restored = true
    end
  end
  for observer in string.gmatch(redis.call('HGET', SESSION, 'observers') or '', '%S+') do
    local state = load_observer(observer)
    local numbers = state.late or {}
    numbers[#numbers + 1] = state.current
    for _, entry in ipairs(state.running) do numbers[#numbers + 1] = entry[1] end
    for number = math.max(1, state.seq - REMEMBERED_RUNS + 1), state.seq do numbers[#numbers + 1] = number end
    for _, number in ipairs(numbers) do restore(observer, number) end
  end
  local appends = tonumber(redis.call('HGET', SESSION, 'appends') or 0)
  for number = 0, math.min(appends, REMEMBERED_APPENDS) - 1 do restore(APPENDS, number) end
  if restored then redis.call('PEXPIREAT', IDS, integer(NOW_MS + redis.call('PTTL', SESSION))) end
  return restored
end

local function find_run(observer, run_id)
  local field = observer .. ' ' .. run_id
  local number = redis.call('HGET', IDS, field)
  if not number and restore_ids() then number = redis.call('HGET', IDS, field) end
  local run = number and load_run(observer, tonumber(number))
  return run and run.id == run_id and run or nil
end

local function forget_run(observer, number)
  local run = load_run(observer, number)
  if run then redis.call('HDEL', IDS, observer .. ' ' .. run.id) end
  delete_run_field(run_field('r', observer, number))
  delete_run_field(run_field('p', observer, number))
end

local function is_in_flight(state, number)
  for _, entry in ipairs(state.running) do
    if entry[1] == number then return true end
  end
  return false
end

-- Drop the parts of a run that are no longer needed. A run that has left the history loses its payload; its record stays, so that
-- a late retry is recognized. A run beyond REMEMBERED_RUNS is forgotten, unless it is in flight, since its write must be recognized
-- as an old run's. Current notes stay, however old their run is.
local function retire(observer, state, number)
  if number < 1 or number == state.current then return end
  if number <= state.seq - REMEMBERED_RUNS then
    if not is_in_flight(state, number) then forget_run(observer, number) end
  elseif number <= state.seq - HISTORY_RUNS then
    delete_run_field(run_field('p', observer, number))
  end
end

-- Keep a run that is no longer in flight as one of the MAX_LATE_RUNS, if it is too old to be remembered otherwise.
local function keep_as_late(observer, state, number)
  if number > state.seq - REMEMBERED_RUNS then return end
  state.late = state.late or {}
  state.late[#state.late + 1] = number
  if #state.late > MAX_LATE_RUNS then retire(observer, state, table.remove(state.late, 1)) end
end

-- Remove the run that has `ended` (nil: none), and all runs whose lease has expired, from the runs in flight.
local function prune_in_flight(observer, state, ended)
  local in_flight = state.running
  state.running = {}
  for _, entry in ipairs(in_flight) do
    if entry[1] ~= ended and entry[2] > NOW then
      state.running[#state.running + 1] = entry
    else
      keep_as_late(observer, state, entry[1])
    end
  end
end

-- Add a run to those in flight. Beyond MAX_RUNS_IN_FLIGHT, the oldest is abandoned.
local function add_in_flight(observer, state, run)
  state.running[#state.running + 1] = { run.number, run.lease }
  if #state.running <= MAX_RUNS_IN_FLIGHT then return end
  local number = table.remove(state.running, 1)[1]
  local oldest = load_run(observer, number)
  if oldest then
    oldest.lease = NOW
    save_run(observer, oldest)
  end
  keep_as_late(observer, state, number)
end

-- Return whether a write of the run is superseded. The mark to beat is the run of the current notes, even if their ttl has
-- passed, or nil if its record is lost.
local function is_superseded(state, run, mark)
  return state.current and (run.number < state.current or (mark and mark.observed and run.observed and run.observed < mark.observed))
end

-- Return a run with the next number. A run whose record is lost gets its old number again, so that it still counts as old.
-- The caller saves the run and the observer's state.
local function new_run(observer, state, run_id)
  local field = observer .. ' ' .. run_id
  local lost = tonumber(redis.call('HGET', IDS, field) or 0)
  if lost > 0 and lost <= state.seq and not load_run(observer, lost) then
    prune_in_flight(observer, state, lost)
    return { id = run_id, number = lost, state = RUNNING }
  end
  state.seq = state.seq + 1
  redis.call('HSET', IDS, field, integer(state.seq))
  retire(observer, state, state.seq - HISTORY_RUNS)
  retire(observer, state, state.seq - REMEMBERED_RUNS)
  return { id = run_id, number = state.seq, state = RUNNING }
end

-- Make room in RUNS for a run with `size` bytes of notes. If necessary, drop notes from the observer's history, oldest first.
-- Return nil, or a refusal, in which case nothing is changed.
local function make_room(observer, state, size)
  local cost = state.seq == 0 and OBSERVER_COST_BYTES or RUN_COST_BYTES
  local bytes = tonumber(redis.call('HGET', RUNS, 'bytes') or 0) + size + cost
  local fields, number, excess = {}, math.max(1, state.seq - HISTORY_RUNS + 1), bytes - RUNS_BYTES
  while excess > 0 do
    if number > state.seq then
      return { TAG, 'RUNS_TOO_LARGE', 'field', '', 'limit', integer(RUNS_BYTES), 'actual', integer(bytes) }
    end
    if number ~= state.current then
      fields[#fields + 1] = run_field('p', observer, number)
      excess = excess - redis.call('HSTRLEN', RUNS, fields[#fields])
    end
    number = number + 1
  end
  for _, field in ipairs(fields) do delete_run_field(field) end
  return nil
end

-- Return whether the run existed at a deletion and is still refused.
local function was_deleted(observer, run_id)
  local entry = redis.call('HGET', DELETED, observer .. ' ' .. run_id)
  if not entry then return false end
  local until_time = string.match(entry, '^@(%d+)$')
  return not until_time or tonumber(until_time) > NOW
end

-- Finish a change: create the session if necessary, record the time, and set the same expiry on all keys. If this creates the
-- session and `former_ttl_ms` is not nil, it becomes the session's own ttl.
local function touch(session_id, default_ttl_ms, former_ttl_ms)
  if redis.call('HSETNX', SESSION, 'created', integer(NOW)) == 1 then
    redis.call('HSET', SESSION, 'id', session_id)
    if former_ttl_ms then redis.call('HSET', SESSION, 'ttl', integer(former_ttl_ms)) end
  end
  redis.call('HSET', SESSION, 'updated', integer(NOW))
  if grown ~= 0 then redis.call('HINCRBY', RUNS, 'bytes', integer(grown)) end
  local expiry = integer(NOW_MS + tonumber(redis.call('HGET', SESSION, 'ttl') or default_ttl_ms))
  for _, key in ipairs({ SESSION, TURNS, RUNS, IDS }) do redis.call('PEXPIREAT', key, expiry) end
end
