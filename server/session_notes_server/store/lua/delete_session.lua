-- → { tag, 1 or 0: there was such a session }
local existed = redis.call('EXISTS', SESSION)
redis.call('ZREMRANGEBYSCORE', DELETED, '-inf', NOW)
local met = 0
for _, field in ipairs(redis.call('HKEYS', RUNS)) do
  if string.sub(field, 1, 2) == 'i:' then
    redis.call('ZADD', DELETED, NOW + TOMBSTONE, string.sub(field, 3))
    met = met + 1
  end
end
if met > 0 then redis.call('PEXPIREAT', DELETED, string.format('%d', math.floor((NOW + TOMBSTONE) / 1000))) end
redis.call('DEL', SESSION, TURNS, RUNS)
return { TAG, existed }
