-- → { tag, 1 or 0: there was such a session }
local existed = redis.call('EXISTS', SESSION)
restore_ids()
if redis.call('EXISTS', IDS) == 1 then
  local before, forget_at = redis.call('HGETALL', DELETED), NOW + redis.call('PTTL', DELETED) * 1000
  redis.call('UNLINK', DELETED)
  -- Runs of an earlier deletion are taken along, for what is left of their hour.
  for i = 1, #before, 2 do
    local until_time = tonumber(string.match(before[i + 1], '^@(%d+)$') or forget_at)
    if until_time > NOW then redis.call('HSETNX', IDS, before[i], string.format('@%d', until_time)) end
  end
  redis.call('RENAME', IDS, DELETED)
  redis.call('PEXPIREAT', DELETED, string.format('%d', math.floor((NOW + TOMBSTONE) / 1000)))
end
redis.call('UNLINK', SESSION, TURNS, RUNS)
return { TAG, existed }
