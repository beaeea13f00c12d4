-- Say that a beat lives, or that it has ended. One that was killed is forgotten a day after its last heartbeat.

local now = now_ms()
redis.call('ZREMRANGEBYSCORE', P .. 'beats', '-inf', digits(now - DAY_MS))
if is_gone then
  redis.call('ZREM', P .. 'beats', name)
else
  redis.call('ZADD', P .. 'beats', digits(now), name)
end
