-- Say that a process lives, and learn which epoch the store is in.
--
-- Returns {now, epoch, recovering}.

local now = now_ms()

local number, recovering = epoch(now, recovery_ms)
redis.call('ZADD', P .. 'processes', digits(now), owner)
if trouble then
  redis.call('HSET', P .. 'troubles', owner, trouble)
else
  redis.call('HDEL', P .. 'troubles', owner)
end
return {now, number, recovering and 1 or 0}
