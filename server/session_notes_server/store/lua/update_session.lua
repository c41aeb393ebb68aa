-- ARGV  2 session id, 3 default session ttl (ms), 4 expected version or '', 5 session ttl (ms) or '', 6 how many fields to set,
--       7… name, value of each, then the names to remove
-- → { tag, 'OK', version, now }, or { tag, 'VERSION_MISMATCH', 'expected', version, 'actual', version },
--   or { tag, 'FIELDS_TOO_LARGE', … }
local session_id, default_ttl, expected, ttl, set_count = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])

local found = redis.call('HMGET', SESSION, 'version', 'field_bytes', 'created')
local version, before = found[1] or '0', tonumber(found[2] or 0)
if expected ~= '' and expected ~= version then
  return { TAG, 'VERSION_MISMATCH', 'expected', expected, 'actual', version }
end

-- What a field takes; one that is there has a value of some bytes.
local function size_of(name)
  local size = redis.call('HSTRLEN', SESSION, 'f:' .. name)
  return size > 0 and size + #name + FIELD_COST or 0
end

local bytes, removed = before, {}
for i = 7, 6 + 2 * set_count, 2 do
  bytes = bytes - size_of(ARGV[i]) + #ARGV[i] + #ARGV[i + 1] + FIELD_COST
end
for i = 7 + 2 * set_count, #ARGV do
  if not removed[ARGV[i]] then bytes = bytes - size_of(ARGV[i]) end
  removed[ARGV[i]] = true
end
if bytes > FIELDS_BYTES and bytes > before then
  return { TAG, 'FIELDS_TOO_LARGE', 'field', 'set', 'limit', string.format('%d', FIELDS_BYTES), 'actual', string.format('%d', bytes) }
end
drop_leftovers(found[3])

version = redis.call('HINCRBY', SESSION, 'version', 1)
for i = 7, 6 + 2 * set_count, 2 do
  redis.call('HSET', SESSION, 'f:' .. ARGV[i], ARGV[i + 1])
end
for i = 7 + 2 * set_count, #ARGV do
  redis.call('HDEL', SESSION, 'f:' .. ARGV[i])
end
redis.call('HSET', SESSION, 'field_bytes', string.format('%d', bytes))
if ttl ~= '' then redis.call('HSET', SESSION, 'ttl', ttl) end
touch(session_id, default_ttl)
return { TAG, 'OK', version, NOW }
