-- Put other secrets in the place of a webhook's, where it is still what the caller read.
--
-- Returns whether it has them now.

local known = redis.call('HGET', P .. 'webhooks', id)
if known == packed then return 1 end
if known ~= base then return 0 end
redis.call('HSET', P .. 'webhooks', id, packed)
audit_change('webhook_secret', by, audit_kept, nil, nil, nil, id)
return 1
