-- Note that an API key was used now, unless that was noted less than `pause_ms` ago, or the key is gone. The first use
-- is audited.

if not redis.call('HGET', P .. 'apikeys', id) then return 0 end
local now = now_ms()
local used_at = redis.call('HGET', P .. 'keyuses', id)
if used_at and now - tonumber(used_at) < pause_ms then return 0 end
redis.call('HSET', P .. 'keyuses', id, digits(now))
if not used_at then audit_change('sign_in', by, audit_kept) end
return 1
