-- Arguments, as locals: `UpdateSession` in scripts.py.
-- Reply: { 'OK', version, now }, or { 'VERSION_MISMATCH', 'expected', version, 'actual', version }, or { 'FIELDS_TOO_LARGE', … }.
local session = redis.call('HMGET', SESSION, 'version', 'field_bytes', 'created')
local version, bytes_before = tonumber(session[1] or 0), tonumber(session[2] or 0)
if expected_version and expected_version ~= version then
  return { TAG, 'VERSION_MISMATCH', 'expected', integer(expected_version), 'actual', integer(version) }
end

-- Return the size of a stored field, or 0 if it does not exist. Stored values are never empty.
local function size_of(name)
  local size = redis.call('HSTRLEN', SESSION, 'f:' .. name)
  return size > 0 and size + #name + FIELD_COST_BYTES or 0
end

local bytes, removed = bytes_before, {}
for i, name in ipairs(set_names) do
  bytes = bytes - size_of(name) + #name + #set_values[i] + FIELD_COST_BYTES
end
for _, name in ipairs(remove_names) do
  if not removed[name] then bytes = bytes - size_of(name) end
  removed[name] = true
end
if bytes > FIELDS_BYTES and bytes > bytes_before then
  return { TAG, 'FIELDS_TOO_LARGE', 'field', 'set', 'limit', integer(FIELDS_BYTES), 'actual', integer(bytes) }
end
drop_leftovers(session[3])

version = redis.call('HINCRBY', SESSION, 'version', 1)
for i, name in ipairs(set_names) do redis.call('HSET', SESSION, 'f:' .. name, set_values[i]) end
for _, name in ipairs(remove_names) do redis.call('HDEL', SESSION, 'f:' .. name) end
redis.call('HSET', SESSION, 'field_bytes', integer(bytes))
if ttl_ms then redis.call('HSET', SESSION, 'ttl', integer(ttl_ms)) end
touch(session_id, default_ttl_ms)
return { TAG, 'OK', version, NOW }
