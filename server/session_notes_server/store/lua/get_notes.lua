-- Arguments, as locals: `GetNotes` in scripts.py.
-- Reply: { now, turn count or false, ms until the session expires (negative: no session), observer_reply }, or { 'LARGE', bytes }.
local session = redis.call('HMGET', SESSION, 'turns', 'o:' .. observer)
if max_notes_bytes and session[2] then
  local current = cmsgpack.unpack(session[2]).current
  local large = current and too_large(redis.call('HSTRLEN', RUNS, run_field('p', observer, current)), max_notes_bytes)
  if large then return large end
end
return { TAG, NOW, session[1] and tonumber(session[1]) or false, redis.call('PTTL', SESSION), observer_reply(observer, session[2]) }
