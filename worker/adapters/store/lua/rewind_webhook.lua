-- Move a webhook's place back in the stream, where it is still what the caller read. `number` events lie between.
--
-- Returns whether it is there now.

local place, counted = unpack(redis.call('HMGET', webhooks.key(id), 'place', 'counted'))
if place == since then return 1 end
if not place or place ~= place_before then return 0 end
redis.call('HSET', webhooks.key(id), 'place', since, 'counted', digits(tonumber(counted) - number))
audit_change('webhook_replayed', by, audit_kept, nil, nil, nil, id)
return 1
