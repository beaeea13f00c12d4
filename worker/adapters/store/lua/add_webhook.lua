-- Store a webhook. It begins with the next event.
--
-- Returns done, also for the very same one again (the first reply was lost), or full.

local known = redis.call('HGET', P .. 'webhooks', id)
if known then return known == packed and 'done' or 'exists' end
if #redis.call('HGETALL', P .. 'webhooks') / 2 >= most then return 'full' end
redis.call('HSET', P .. 'webhooks', id, packed)
redis.call('HSET', webhooks.key(id), 'place', webhooks.last_event(), 'counted', digits(webhooks.events_written() or 0))
audit_change('webhook_added', by, audit_kept, nil, nil, nil, id)
return 'done'
