-- ARGV  2 session id, 3 default session ttl (ms), 4 expected turn count or '', 5… the turns
-- → { tag, 'OK', turn count }, or { tag, 'TURN_COUNT_MISMATCH', actual turn count }
local session_id, default_ttl, expected = ARGV[2], ARGV[3], ARGV[4]

local count = redis.call('HGET', SESSION, 'turns') or '0'
if expected ~= '' and expected ~= count then return { TAG, 'TURN_COUNT_MISMATCH', count } end

for i = 5, #ARGV do
  redis.call('RPUSH', TURNS, ARGV[i])
end
redis.call('LTRIM', TURNS, -TRANSCRIPT, -1)
count = redis.call('HINCRBY', SESSION, 'turns', #ARGV - 4)
touch(session_id, default_ttl)
return { TAG, 'OK', count }
