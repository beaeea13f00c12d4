-- Forget an API key. From here on no call is let in with it.
--
-- Returns whether there was one.

redis.call('HDEL', P .. 'keyuses', id)
local removed = redis.call('HDEL', P .. 'apikeys', id)
if removed == 1 then audit_change('key_revoked', by, audit_kept, nil, nil, name) end
return removed
