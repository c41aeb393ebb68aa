-- Arguments, as locals: `AppendTurns` in scripts.py.
-- Reply: { 'OK', turn count }, or { 'TURN_COUNT_MISMATCH', 'expected', count, 'actual', count }.
local session = redis.call('HMGET', SESSION, 'turns', 'turn_bytes', 'created')
local count, bytes = tonumber(session[1] or 0), tonumber(session[2] or 0)
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
redis.call('HSET', SESSION, 'turn_bytes', integer(bytes), 'turned', integer(NOW))
count = redis.call('HINCRBY', SESSION, 'turns', #turns)
touch(session_id, default_ttl_ms, former_ttl_ms)
return { TAG, 'OK', count }
