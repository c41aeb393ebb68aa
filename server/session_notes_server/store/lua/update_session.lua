-- ARGV  2 session id, 3 default session ttl (ms), 4 expected version or '', 5 session ttl (ms) or '', 6 how many fields to set,
--       7… name, value of each, then the names to remove
-- → { tag, 'OK', version, now }, or { tag, 'VERSION_MISMATCH', actual version }
local session_id, default_ttl, expected, ttl, set_count = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local version = redis.call('HGET', SESSION, 'version') or '0'
if expected ~= '' and expected ~= version then return { TAG, 'VERSION_MISMATCH', version } end

version = redis.call('HINCRBY', SESSION, 'version', 1)
for i = 7, 6 + 2 * set_count, 2 do
  redis.call('HSET', SESSION, 'f:' .. ARGV[i], ARGV[i + 1])
end
for i = 7 + 2 * set_count, #ARGV do
  redis.call('HDEL', SESSION, 'f:' .. ARGV[i])
end
if ttl ~= '' then redis.call('HSET', SESSION, 'ttl', ttl) end
touch(session_id, default_ttl)
return { TAG, 'OK', version, NOW }
