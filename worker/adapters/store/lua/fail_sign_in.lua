-- End a sign-in that brought nothing; one that brought a consent is left as it is.

local key = sign_in_key(sign_in)
local phase, id = unpack(redis.call('HMGET', key, 'phase', 'grant'))
if phase ~= 'open' and phase ~= 'returned' then return 0 end
redis.call('HSET', key, 'phase', 'failed')
audit_change('connect_failed', by, audit_kept, id, nil)
return 1
