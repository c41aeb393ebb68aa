-- Arguments: none.
-- Remove the session except for the ids of its runs and appends, which are refused for TOMBSTONE_US.
-- Reply: { 1 if the session existed, or 0 }.
local existed = redis.call('EXISTS', SESSION)
restore_ids()
if redis.call('EXISTS', IDS) == 1 then
  local earlier, forget_at = redis.call('HGETALL', DELETED), NOW + redis.call('PTTL', DELETED) * US_PER_MS
  redis.call('UNLINK', DELETED)
  -- Ids of an earlier deletion stay refused for the rest of its hour.
  for i = 1, #earlier, 2 do
    local until_time = tonumber(string.match(earlier[i + 1], '^@(%d+)$') or forget_at)
    if until_time > NOW then redis.call('HSETNX', IDS, earlier[i], string.format('@%d', until_time)) end
  end
  redis.call('RENAME', IDS, DELETED)
  redis.call('PEXPIREAT', DELETED, integer(math.floor((NOW + TOMBSTONE_US) / US_PER_MS)))
end
redis.call('UNLINK', SESSION, TURNS, RUNS)
return { TAG, existed }
