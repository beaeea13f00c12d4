-- Say that a process lives, and learn which epoch the store is in.
--
-- Returns {now, epoch, recovering, when this store began (0 where an earlier release began it)}.

local now = now_ms()

local number, recovering = epoch(now, recovery_ms)
redis.call('ZADD', P .. 'processes', digits(now), owner)
if trouble then
  redis.call('HSET', P .. 'troubles', owner, trouble)
else
  redis.call('HDEL', P .. 'troubles', owner)
end
if #untaken > 0 then
  redis.call('HSET', P .. 'untaken', owner, cmsgpack.pack(untaken))
else
  redis.call('HDEL', P .. 'untaken', owner)
end
local began_at = redis.call('HGET', P .. 'epoch', 'began_at')
return {now, number, recovering and 1 or 0, tonumber(began_at or '0')}
