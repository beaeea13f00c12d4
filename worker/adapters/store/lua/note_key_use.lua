-- Note that an API key was used now, unless that was noted less than `pause_ms` ago, or the key is gone.

if redis.call('HEXISTS', P .. 'apikeys', id) == 0 then return 0 end
local now = now_ms()
if now - tonumber(redis.call('HGET', P .. 'keyuses', id) or '0') < pause_ms then return 0 end
redis.call('HSET', P .. 'keyuses', id, digits(now))
return 1
