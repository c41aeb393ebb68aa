-- ARGV  2 session id, 3 default session ttl (ms), 4 expected turn count or '', 5 former ttl (ms) or '', 6… the turns
-- → { tag, 'OK', turn count }, or { tag, 'TURN_COUNT_MISMATCH', 'expected', count, 'actual', count }
local session_id, default_ttl, expected, former_ttl = ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local found = redis.call('HMGET', SESSION, 'turns', 'turn_bytes', 'created')
local count, bytes = found[1] or '0', tonumber(found[2] or 0)
if expected ~= '' and expected ~= count then
  return { TAG, 'TURN_COUNT_MISMATCH', 'expected', expected, 'actual', count }
end
drop_leftovers(found[3])

local kept
for i = 6, #ARGV do
  kept = redis.call('RPUSH', TURNS, ARGV[i])
  bytes = (kept > 1 and bytes or 0) + #ARGV[i]
end
while kept > TRANSCRIPT or bytes > TRANSCRIPT_BYTES and kept > 1 do
  bytes = bytes - #redis.call('LPOP', TURNS)
  kept = kept - 1
end
redis.call('HSET', SESSION, 'turn_bytes', string.format('%d', bytes))
count = redis.call('HINCRBY', SESSION, 'turns', #ARGV - 5)
touch(session_id, default_ttl, former_ttl)
return { TAG, 'OK', count }
