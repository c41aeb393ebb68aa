-- Arguments, as locals: `GetSession` in scripts.py.
-- Reply: { now, ms until the session expires (negative: no session), version, turn count, created or false, updated or false,
--   { field, value, … }, { observer, observer_reply, … }, { turn, … } }, or { 'LARGE', bytes } if the session is larger
--   than max_reply_bytes.
if max_reply_bytes then
  local sizes = redis.call('HMGET', SESSION, 'field_bytes', 'turn_bytes')
  local bytes = tonumber(sizes[1] or 0) + tonumber(redis.call('HGET', RUNS, 'bytes') or 0)
  local large = too_large(bytes + (include_turns and tonumber(sizes[2] or 0) or 0), max_reply_bytes)
  if large then return large end
end

local flat = redis.call('HGETALL', SESSION)
local meta, fields, observers = {}, {}, {}
for i = 1, #flat, 2 do
  local kind, name = string.sub(flat[i], 1, 2), string.sub(flat[i], 3)
  if kind == 'f:' then
    fields[#fields + 1] = name
    fields[#fields + 1] = flat[i + 1]
  elseif kind == 'o:' then
    observers[#observers + 1] = name
    observers[#observers + 1] = observer_reply(name, flat[i + 1])
  else
    meta[flat[i]] = tonumber(flat[i + 1])
  end
end
local turns = include_turns and meta.created and redis.call('LRANGE', TURNS, 0, -1) or {}
return { TAG, NOW, redis.call('PTTL', SESSION), meta.version or 0, meta.turns or 0, meta.created or false, meta.updated or false,
  fields, observers, turns }
