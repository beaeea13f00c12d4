-- Say that a process is gone: nobody waits for it any more. Of workers that died the last one stays known, for `status` to
-- say that none is alive: any process of its machine may have taken over its journal.

local function is_last_worker()
  local heard_at = tonumber(redis.call('ZSCORE', P .. 'workers', owner) or '0')
  local alive_from = now_ms() - alive_ms
  return redis.call('ZCOUNT', P .. 'workers', digits(alive_from), '+inf') == (heard_at >= alive_from and 1 or 0)
end

redis.call('ZREM', P .. 'processes', owner)
redis.call('SREM', P .. 'recovered', owner)
if not (is_dead and is_last_worker()) then redis.call('ZREM', P .. 'workers', owner) end
redis.call('DEL', P .. 'batch:' .. owner)
redis.call('HDEL', P .. 'untaken', owner)
return redis.call('HDEL', P .. 'troubles', owner)
