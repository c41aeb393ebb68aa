-- ARGV  2 observer, 3 how many bytes of notes at most; absent: any
-- → { tag, now, turn count or false, ms until the session expires, observer_reply }, or { tag, 'LARGE', bytes }
local observer, most = ARGV[2], ARGV[3]
local session = redis.call('HMGET', SESSION, 'turns', 'o:' .. observer)
if most and session[2] then
  local current = cmsgpack.unpack(session[2]).current
  local too_large = current and large(redis.call('HSTRLEN', RUNS, run_field('p', observer, current)), tonumber(most))
  if too_large then return too_large end
end
return { TAG, NOW, session[1] and tonumber(session[1]) or false, redis.call('PTTL', SESSION), observer_reply(observer, session[2]) }
