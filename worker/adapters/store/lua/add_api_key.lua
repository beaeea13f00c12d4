-- Store an API key under an id that no key has.
--
-- Returns done, also for the very same key again (the first reply was lost), or exists.

local known = redis.call('HGET', P .. 'apikeys', id)
if known then return known == packed and 'done' or 'exists' end
redis.call('HSET', P .. 'apikeys', id, packed)
audit_change('key_made', by, audit_kept, nil, nil, name)
return 'done'
