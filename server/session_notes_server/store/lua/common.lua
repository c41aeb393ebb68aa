-- Shared by all scripts. The loader prepends a local for each name in limits.py and for each state of a run, and appends
-- changes.lua for a script that changes a session, and a local for each argument of the script.
--
-- KEYS of one session, all in one slot:
--   1 session   hash
--                 id, version, turns (count), created and updated (µs), ttl (ms, if the session has its own)
--                 turned                  when the last turn was appended (µs; absent in sessions stored before this field)
--                 appends                 number of appends with an id
--                 f:<field>               a serialized google.protobuf.Value
--                 o:<observer>            the packed state of an observer, see below
--                 observers               names of the observers, each after a space
--                 field_bytes, turn_bytes size of the fields and of the turns
--   2 turns     list: serialized turns, the newest TRANSCRIPT_TURNS, up to TRANSCRIPT_BYTES
--   3 runs      hash
--                 r:<observer> <number>   a packed run
--                 p:<observer> <number>   its payload: notes or failure reason
--                 bytes                   total size of both
--   4 deleted   hash
--                 <observer> <run id>     a number: the run existed at the last deletion and is refused while the key exists;
--                                         or @<µs>: it existed at an earlier deletion and is refused until then
--   5 ids       hash
--                 <observer> <run id>     the run's number. A deletion renames the key to `deleted`, in one step
-- The state of an observer is { seq, current, running = { { number, lease }, … }, late = { number, … } }: the number of the newest
-- run, the number of the run whose notes are current, the runs in flight, and late runs that are still remembered.
--
-- An append with an id is stored like a run, of an observer whose name is empty (APPENDS) and which is in no list of observers.
-- Its record is { id, digest, turns: the turn count after it }, its number one of 0 to REMEMBERED_APPENDS - 1, in turn. So a deletion,
-- and a loss of keys, treat it like a run.
--
-- The hash `session` is the root. Without it the session does not exist, and the other keys are leftovers of an earlier session
-- (the store evicted the hash, or an operator deleted it). Reads begin at the hash; writes call `drop_leftovers` first. Losing any
-- other key loses only its contents, and `ids` is rebuilt from the runs.
--
-- ARGV[1] is the tag. Every reply begins with it, so that the caller can detect a stray reply. The caller strips it.
--
-- Times are microseconds of the store's clock since 1970. A double holds them exactly until the year 2255.
-- In a reply, false (nil to the caller) stands for an absent value.

local SESSION, TURNS, RUNS, DELETED, IDS = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local TAG = ARGV[1]

local clock = redis.call('TIME')
local NOW = clock[1] * US_PER_SECOND + clock[2]
local NOW_MS = math.floor(NOW / US_PER_MS)

local function run_field(kind, observer, number)
  return string.format('%s:%s %d', kind, observer, number)
end

local function unpack_or_nil(packed)
  return packed and cmsgpack.unpack(packed) or nil
end

local function load_observer(observer)
  return unpack_or_nil(redis.call('HGET', SESSION, 'o:' .. observer)) or { seq = 0, running = {} }
end

local function load_run(observer, number)
  return unpack_or_nil(redis.call('HGET', RUNS, run_field('r', observer, number)))
end

-- Return the run whose notes are current, or nil. If the store has lost that run, its number may belong to one that has not written.
local function load_current(observer, state)
  local run = state.current and load_run(observer, state.current)
  return run and run.digest and run or nil
end

local function load_payload(observer, number)
  return redis.call('HGET', RUNS, run_field('p', observer, number))
end

-- Return a run as a reply: { id, number, state, observed turn, begin, end }, or false. A run whose lease has expired is ABANDONED.
local function run_reply(run)
  if not run then return false end
  local state, ended = run.state, run.ended
  if state == RUNNING and run.lease <= NOW then state, ended = ABANDONED, run.lease end
  return { run.id, run.number, state, run.observed or false, run.began or false, ended or false }
end

local function failure_of(observer, run)
  return run and run.state == FAILED and load_payload(observer, run.number) or ''
end

local function has_expired(run)
  return run.expires ~= nil and run.expires <= NOW
end

-- Return an observer as a reply: { current run, its notes (false once their ttl has passed), when they expire (µs), latest run,
-- its failure reason }, or false for an observer without runs.
local function observer_reply(observer, packed)
  local state = unpack_or_nil(packed)
  if not state then return false end
  local current = load_current(observer, state)
  local notes = current and not has_expired(current) and load_payload(observer, state.current)
  local latest = state.seq == state.current and current or load_run(observer, state.seq)
  local expires = current and current.expires or false
  return { run_reply(current), notes or false, expires, run_reply(latest), failure_of(observer, latest) }
end

-- Return { tag, 'LARGE', size } in place of a reply that would exceed `limit` bytes (nil: no limit), else nil. The caller
-- runs the script again without a limit, once no other large reply is being read.
local function too_large(size, limit)
  return limit and size > limit and { TAG, 'LARGE', size } or nil
end
