-- Let a webhook be sent to again. What waits is tried at once, as often as a new event.
--
-- Returns whether there is such a webhook.

if not redis.call('HGET', P .. 'webhooks', id) then return 0 end
redis.call('HDEL', webhooks.key(id), 'disabled_at', 'disabled_for', 'failing_since', 'failed_with', 'hold_until',
  'given_up', 'lost')
local now = digits(now_ms())
for _, place in ipairs(redis.call('ZRANGE', webhooks.retries_key(id), 0, -1)) do
  local _, body = unpack(cmsgpack.unpack(redis.call('HGET', webhooks.undelivered_key(id), place)))
  redis.call('HSET', webhooks.undelivered_key(id), place, cmsgpack.pack({0, body}))
  redis.call('ZADD', webhooks.retries_key(id), now, place)
end
audit_change('webhook_enabled', by, audit_kept, nil, nil, nil, id)
return 1
