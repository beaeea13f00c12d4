-- Forget a webhook and all that waits for it.
--
-- Returns whether there was one.

local removed = redis.call('HDEL', P .. 'webhooks', id)
redis.call('DEL', webhooks.key(id), webhooks.undelivered_key(id), webhooks.retries_key(id))
if removed == 1 then audit_change('webhook_removed', by, audit_kept, nil, nil, nil, id) end
return removed
