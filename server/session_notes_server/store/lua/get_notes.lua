-- ARGV  2 observer
-- → { tag, now, turn count or false, ms until the session expires, observer_reply }
local session = redis.call('HMGET', SESSION, 'turns', 'o:' .. ARGV[2])
return { TAG, NOW, session[1] and tonumber(session[1]) or false, redis.call('PTTL', SESSION), observer_reply(ARGV[2], session[2]) }
