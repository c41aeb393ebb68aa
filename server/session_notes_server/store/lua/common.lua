-- What every script shares. The loader puts this file before each of the others.
--
-- KEYS  of one session, all in one slot
--   1 session   hash: id, version, turns (count), created, updated (µs), ttl (ms, where set), f:<field> → google.protobuf.Value,
--               o:<observer> → packed { seq, current, running = {{number, lease}, …}, late = {number, …} },
--               observers: their names, each after a space; field_bytes, turn_bytes: how much fields and turns take
--   2 turns     list of serialized Turns, the newest TRANSCRIPT of them, of at most TRANSCRIPT_BYTES
--   3 runs      hash: r:<observer> <number> → packed run; p:<observer> <number> → its payload (notes, or why it failed);
--               bytes: how much all of them take
--   4 deleted   hash: <observer> <run_id> of runs known at a deletion → a number (of the last deletion: known as long as the
--               key exists), or @<µs>, when an earlier deletion's may be forgotten
--   5 ids       hash: <observer> <run_id> → number. A deletion renames it to `deleted`, in one step however many there are.
-- The hash `session` is the root: without it there is no session, and whatever the other keys hold is left of an earlier life
-- (the store evicted the hash, or an operator deleted it). Reads start at the hash; writes call `drop_leftovers` first. Any
-- other key may be lost while the hash is there: its contents are gone, and nothing else; the ids are read from the runs again.
-- ARGV
--   1 tag       echoed as the first element of every reply, so that the caller can tell its own reply from a stray one
--
-- Times are microseconds of the store's clock since 1970: whole numbers a double holds exactly until the year 2255.
-- Replies hold false where there is nothing.

local SESSION, TURNS, RUNS, DELETED, IDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local TAG = ARGV[1]

local HISTORY = 20        -- runs whose notes are kept
local REMEMBERED = 1000   -- runs whose id and digest are kept
local IN_FLIGHT = 100     -- runs of an observer that can be at work; of more, the oldest count as abandoned
local LATE = 100          -- runs that were overtaken by more than REMEMBERED while at work, and are remembered beside these
local TRANSCRIPT = 2000   -- turns that are kept
local TOMBSTONE = 3600e6  -- how long a deletion refuses the runs it met

-- How large a session can be. One that is large takes the store, which does one thing at a time, so much longer to read.
local TRANSCRIPT_BYTES = 8 * 1024 * 1024  -- turns that are kept
local FIELDS_BYTES = 8 * 1024 * 1024      -- fields: name, value, and FIELD_COST each
local FIELD_COST = 256
local RUNS_BYTES = 16 * 1024 * 1024       -- runs that are remembered and their notes, and OBSERVER_COST for each observer
local OBSERVER_COST, RUN_COST = 8 * 1024, 1024

local RUNNING, WRITTEN, SUPERSEDED, FAILED, ABANDONED = 1, 2, 3, 4, 5  -- as RunState in the contract

local clock = redis.call('TIME')
local NOW = clock[1] * 1e6 + clock[2]

-- '' stands for "absent" among the arguments.
local function number_or_nil(argument)
  return argument ~= '' and tonumber(argument) or nil
end

local function run_field(kind, observer, number)
  return string.format('%s:%s %d', kind, observer, number)
end

local function unpack_or_nil(packed)
  return packed and cmsgpack.unpack(packed) or nil
end

-- Removes what an earlier life of a session left that has none now (`created` is false). Before a script that changes a session
-- reads any other key than the hash.
local function drop_leftovers(created)
  if not created then redis.call('UNLINK', TURNS, RUNS, IDS) end
end

-- How many bytes this script has added to RUNS; `touch` notes them down.
local grown = 0

local function put(field, value)
  local before = redis.call('HSTRLEN', RUNS, field)
  redis.call('HSET', RUNS, field, value)
  grown = grown + #value - before + (before == 0 and #field or 0)
end

local function drop(field)
  local size = redis.call('HSTRLEN', RUNS, field)
  if redis.call('HDEL', RUNS, field) == 1 then grown = grown - size - #field end
end

local function load_observer(observer)
  return unpack_or_nil(redis.call('HGET', SESSION, 'o:' .. observer)) or { seq = 0, running = {} }
end

local function save_observer(observer, state)
  if redis.call('HSET', SESSION, 'o:' .. observer, cmsgpack.pack(state)) == 1 then
    grown = grown + OBSERVER_COST
    redis.call('HSET', SESSION, 'observers', (redis.call('HGET', SESSION, 'observers') or '') .. ' ' .. observer)
  end
end

local function load_run(observer, number)
  return unpack_or_nil(redis.call('HGET', RUNS, run_field('r', observer, number)))
end

local function save_run(observer, run)
  put(run_field('r', observer, run.number), cmsgpack.pack(run))
end

local function load_payload(observer, number)
  return redis.call('HGET', RUNS, run_field('p', observer, number))
end

-- Where the store has lost the ids alone, reads them from the records. Without them, a late write would count as that of a new
-- run and win, and a deletion would not know which runs to refuse.
local function restore_ids()
  if redis.call('EXISTS', IDS) == 1 then return end
  local restored = false
  for observer in string.gmatch(redis.call('HGET', SESSION, 'observers') or '', '%S+') do
    local state = load_observer(observer)
    local numbers = state.late or {}
    for _, entry in ipairs(state.running) do numbers[#numbers + 1] = entry[1] end
    for number = math.max(1, state.seq - REMEMBERED + 1), state.seq do numbers[#numbers + 1] = number end
    for _, number in ipairs(numbers) do
      local run = load_run(observer, number)
      if run then
        redis.call('HSET', IDS, observer .. ' ' .. run.id, string.format('%d', number))
        restored = true
      end
    end
  end
  if restored then
    redis.call('PEXPIREAT', IDS, string.format('%d', math.floor(NOW / 1000) + redis.call('PTTL', SESSION)))
  end
end

local function find_run(observer, run_id)
  local field = observer .. ' ' .. run_id
  local number = redis.call('HGET', IDS, field)
  if not number then
    restore_ids()
    number = redis.call('HGET', IDS, field)
  end
  local run = number and load_run(observer, tonumber(number))
  return run and run.id == run_id and run or nil
end

local function forget(observer, number)
  local run = load_run(observer, number)
  if run then redis.call('HDEL', IDS, observer .. ' ' .. run.id) end
  drop(run_field('r', observer, number))
  drop(run_field('p', observer, number))
end

local function at_work(state, number)
  for _, entry in ipairs(state.running) do
    if entry[1] == number then return true end
  end
  return false
end

-- A run that left the history keeps its record, so that a late retry is known for what it is, but not its payload; one that is
-- no longer remembered goes altogether. The current notes stay, however old their run, and so does a run that is at work: its
-- write is to be known for an old one's.
local function retire(observer, state, number)
  if number < 1 or number == state.current then return end
  if number <= state.seq - REMEMBERED then
    if not at_work(state, number) then forget(observer, number) end
  elseif number <= state.seq - HISTORY then
    drop(run_field('p', observer, number))
  end
end

-- Notes that a run is at work no more. Had it not been, it would have been forgotten at some time.
local function leaves(observer, state, number)
  if number > state.seq - REMEMBERED then return end
  state.late = state.late or {}
  state.late[#state.late + 1] = number
  if #state.late > LATE then retire(observer, state, table.remove(state.late, 1)) end
end

-- Issues the next number, or the same again to a run whose record is lost: a slow old run is still an old one. The caller saves
-- the run and the observer's state.
local function new_run(observer, state, run_id)
  local field = observer .. ' ' .. run_id
  local lost = tonumber(redis.call('HGET', IDS, field) or 0)
  if lost > 0 and lost <= state.seq and not load_run(observer, lost) then
    return { id = run_id, number = lost, state = RUNNING }
  end
  state.seq = state.seq + 1
  redis.call('HSET', IDS, field, string.format('%d', state.seq))
  retire(observer, state, state.seq - HISTORY)
  retire(observer, state, state.seq - REMEMBERED)
  return { id = run_id, number = state.seq, state = RUNNING }
end

-- Takes off those at work a run that has ended (nil: none), and all whose lease is over.
local function no_longer_running(observer, state, number)
  local before = state.running
  state.running = {}
  for _, entry in ipairs(before) do
    if entry[1] ~= number and entry[2] > NOW then
      state.running[#state.running + 1] = entry
    else
      leaves(observer, state, entry[1])
    end
  end
end

local function save_payload(observer, state, run, payload)
  if run.number == state.current or run.number > state.seq - HISTORY then
    put(run_field('p', observer, run.number), payload)
  end
end

-- Makes room in RUNS for a run with so many bytes of notes, where need be at the cost of notes in the observer's history, the
-- oldest first. → nil, or why not, and then nothing is changed.
local function make_room(observer, state, size)
  local bytes = tonumber(redis.call('HGET', RUNS, 'bytes') or 0) + size + (state.seq == 0 and OBSERVER_COST or RUN_COST)
  local give_way, number, excess = {}, math.max(1, state.seq - HISTORY + 1), bytes - RUNS_BYTES
  while excess > 0 do
    if number > state.seq then
      return { TAG, 'RUNS_TOO_LARGE', 'field', '', 'limit', string.format('%d', RUNS_BYTES), 'actual', string.format('%d', bytes) }
    end
    if number ~= state.current then
      give_way[#give_way + 1] = run_field('p', observer, number)
      excess = excess - redis.call('HSTRLEN', RUNS, give_way[#give_way])
    end
    number = number + 1
  end
  for _, field in ipairs(give_way) do drop(field) end
  return nil
end

-- → { id, number, state, observed_turn, begin, end }; a lease that ran out is seen here, at reading.
local function run_reply(run)
  if not run then return false end
  local state, ended = run.state, run.ended
  if state == RUNNING and run.lease <= NOW then state, ended = ABANDONED, run.lease end
  return { run.id, run.number, state, run.observed or false, run.began or false, ended or false }
end

local function failure_of(observer, run)
  return run and run.state == FAILED and load_payload(observer, run.number) or ''
end

local function expired(run)
  return run.expires ~= nil and run.expires <= NOW
end

-- What GetNotes says of one observer → false, or
-- { current run, its notes (false once their ttl has passed), when they expire (µs), latest run, why that failed }
local function observer_reply(observer, packed)
  local state = unpack_or_nil(packed)
  if not state then return false end
  local current, notes
  if state.current then
    current = load_run(observer, state.current)
    notes = current and not expired(current) and load_payload(observer, state.current)
  end
  local latest = state.seq == state.current and current or load_run(observer, state.seq)
  return { run_reply(current), notes or false, current and current.expires or false, run_reply(latest), failure_of(observer, latest) }
end

local function known_at_deletion(observer, run_id)
  local kept = redis.call('HGET', DELETED, observer .. ' ' .. run_id)
  if not kept then return false end
  local until_time = string.match(kept, '^@(%d+)$')
  return not until_time or tonumber(until_time) > NOW
end

-- Every change ends here: the session exists, knows when it changed, and everything of it expires together. One that starts has
-- the ttl of its own that it had before it expired (nil or '': none that is known).
local function touch(session_id, default_ttl, former_ttl)
  if redis.call('HSETNX', SESSION, 'created', string.format('%d', NOW)) == 1 then
    redis.call('HSET', SESSION, 'id', session_id)
    if former_ttl and former_ttl ~= '' then redis.call('HSET', SESSION, 'ttl', former_ttl) end
  end
  redis.call('HSET', SESSION, 'updated', string.format('%d', NOW))
  if grown ~= 0 then redis.call('HINCRBY', RUNS, 'bytes', string.format('%d', grown)) end
  local ttl = redis.call('HGET', SESSION, 'ttl') or default_ttl
  local at = string.format('%d', math.floor(NOW / 1000) + ttl)
  redis.call('PEXPIREAT', SESSION, at)
  redis.call('PEXPIREAT', TURNS, at)
  redis.call('PEXPIREAT', RUNS, at)
  redis.call('PEXPIREAT', IDS, at)
end

-- A reply that would be large is not made unless its caller has its turn for it.
local function large(size, most)
  return most and size > most and { TAG, 'LARGE', size } or nil
end
