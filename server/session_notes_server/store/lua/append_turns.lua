-- Arguments, as locals: `AppendTurns` in scripts.py.
-- Reply: { 'OK', turn count }, { 'DUPLICATE', turn count after the first call }, or
--   { 'SESSION_DELETED' | 'TURNS_ALREADY_APPENDED' }, or { 'TURN_COUNT_MISMATCH', 'expected', count, 'actual', count }.
local session = redis.call('HMGET', SESSION, 'turns', 'turn_bytes', 'created', 'appends')
local count, bytes = tonumber(session[1] or 0), tonumber(session[2] or 0)
if append_id ~= '' then
  if was_deleted(APPENDS, append_id) then return { TAG, 'SESSION_DELETED' } end
  local first = session[3] and find_run(APPENDS, append_id)
  if first and first.digest ~= digest then return { TAG, 'TURNS_ALREADY_APPENDED' } end
  if first then return { TAG, 'DUPLICATE', first.turns } end
end
if expected_turn_count and expected_turn_count ~= count then
  return { TAG, 'TURN_COUNT_MISMATCH', 'expected', integer(expected_turn_count), 'actual', integer(count) }
end
drop_leftovers(session[3])

local length
for _, turn in ipairs(turns) do
  length = redis.call('RPUSH', TURNS, turn)
  -- The store can lose the list and keep the hash. The first turn of a new list restarts the sum.
  bytes = (length > 1 and bytes or 0) + #turn
end
while length > TRANSCRIPT_TURNS or bytes > TRANSCRIPT_BYTES and length > 1 do
  bytes = bytes - #redis.call('LPOP', TURNS)
  length = length - 1
end
count = count + #turns
local changes = { 'turns', integer(count), 'turn_bytes', integer(bytes), 'turned', integer(NOW) }
if append_id ~= '' then
  local appends = tonumber(session[4] or 0)
  local number = appends % REMEMBERED_APPENDS
  -- The newest append takes the place of the oldest.
  local oldest = appends >= REMEMBERED_APPENDS and load_run(APPENDS, number)
  if oldest then redis.call('HDEL', IDS, APPENDS .. ' ' .. oldest.id) end
  redis.call('HSET', IDS, APPENDS .. ' ' .. append_id, integer(number))
  -- Not counted as `bytes`: there are few, and no reply contains them.
  redis.call('HSET', RUNS, run_field('r', APPENDS, number), cmsgpack.pack({ id = append_id, digest = digest, turns = count }))
  changes[7], changes[8] = 'appends', integer(appends + 1)
end
redis.call('HSET', SESSION, unpack(changes))
touch(session_id, default_ttl_ms, former_ttl_ms)
return { TAG, 'OK', count }
