-- End the lease of a webhook's server.

local key = webhooks.key(id)
if redis.call('HGET', key, 'owner') == owner then redis.call('HDEL', key, 'owner', 'lease_until') end
return 1
