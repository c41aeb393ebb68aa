-- Arguments: none.
-- Reply: { version, turn count, updated, ms until the session expires, observers: their names, each after a space }, or { false }
--   if the session does not exist.
local meta = redis.call('HMGET', SESSION, 'version', 'turns', 'updated', 'observers')
if not meta[3] then return { TAG, false } end
return { TAG, tonumber(meta[1] or 0), tonumber(meta[2] or 0), tonumber(meta[3]), redis.call('PTTL', SESSION), meta[4] or '' }
