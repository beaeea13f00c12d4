-- End a sign-in that brought nothing; one that brought a consent is left as it is.

local key = connection_key(connection)
local phase, id = unpack(redis.call('HMGET', key, 'phase', 'grant'))
if phase ~= 'open' and phase ~= 'returned' then return 0 end
redis.call('HSET', key, 'phase', 'failed')
audit_change('connect_failed', by, audit_kept, id, nil)
return 1
