-- Record a try of an event: delivered, to be tried again, or given up. One that was recorded already changes nothing.
--
-- Where a webhook that had met nothing but failures for a while takes an event, all that waits for it is tried at once.
--
-- Returns whether it was recorded.

local UP_AGAIN_MS = 60000

local stored = redis.call('HGET', webhooks.undelivered_key(id), place)
local before, body = 0, nil
if stored then before, body = unpack(cmsgpack.unpack(stored)) end
if not stored or before ~= tries then return 0 end

local key, now = webhooks.key(id), now_ms()
if outcome == 'retry' then
  redis.call('HSET', webhooks.undelivered_key(id), place, cmsgpack.pack({tries + 1, body}))
  redis.call('ZADD', webhooks.retries_key(id), digits(now + in_ms), place)
else
  redis.call('HDEL', webhooks.undelivered_key(id), place)
  redis.call('ZREM', webhooks.retries_key(id), place)
  redis.call('HINCRBY', key, outcome, 1)
end
if outcome == 'delivered' then
  local failing_since = tonumber(redis.call('HGET', key, 'failing_since') or now)
  redis.call('HDEL', key, 'failing_since', 'failed_with', 'hold_until')
  if now - failing_since > UP_AGAIN_MS then
    for _, waiting in ipairs(redis.call('ZRANGE', webhooks.retries_key(id), 0, -1)) do
      redis.call('ZADD', webhooks.retries_key(id), digits(now), waiting)
    end
  end
else
  local failing_since = redis.call('HGET', key, 'failing_since') or digits(now)
  redis.call('HSET', key, 'failing_since', failing_since, 'failed_with', detail)
  if hold_ms > 0 then redis.call('HSET', key, 'hold_until', digits(now + hold_ms)) end
end
if disables and not redis.call('HGET', key, 'disabled_at') then
  redis.call('HSET', key, 'disabled_at', digits(now), 'disabled_for', disables)
  emit(event, events_kept)
end

if grant then
  local shown = unpack_list(redis.call('GET', webhooks.deliveries_key(grant)))
  table.insert(shown, 1, {id, event_id, now, outcome == 'delivered' and outcome or detail, tries + 1})
  shown[most_shown + 1] = nil
  redis.call('SET', webhooks.deliveries_key(grant), cmsgpack.pack(shown), 'PX', digits(shown_ms))
end
return 1
