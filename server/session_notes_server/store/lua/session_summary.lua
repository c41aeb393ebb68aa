-- → { tag, version, turn count, updated, ms until it expires, { observer, … } }, or { tag, false }: no such session
local meta = redis.call('HMGET', SESSION, 'version', 'turns', 'updated')
if not meta[3] then return { TAG, false } end
local observers = {}
for _, field in ipairs(redis.call('HKEYS', SESSION)) do
  if string.sub(field, 1, 2) == 'o:' then observers[#observers + 1] = string.sub(field, 3) end
end
return { TAG, tonumber(meta[1] or 0), tonumber(meta[2] or 0), tonumber(meta[3]), redis.call('PTTL', SESSION), observers }
