-- Read what a webhook is to be sent: what is due of its queue, and what follows its place in the stream where less is due
-- than it may be sent at once. Events that were trimmed beyond its place are counted.
--
-- Only the task that has the place for delivering is told. A repeated call (the first reply was lost) reads the same again.
--
-- Returns gone, disabled or busy; or the instant, the same by Redis's clock, the webhook as it is stored, since when it
-- fails (0 where it does not), its place, what is due ({stream id, packed} each), and what follows ({stream id, event}).

local packed = redis.call('HGET', P .. 'webhooks', id)
if not packed then return 'gone' end
local key, now = webhooks.key(id), now_ms()
local known = redis.call('HMGET', key, 'disabled_at', 'hold_until', 'failing_since', 'place')
if known[1] then return 'disabled' end
if redis.call('GET', P .. 'deliverer') ~= task then return 'busy' end
webhooks.note_lost(id)

local due, page = {}, {}
if tonumber(known[2] or '0') <= now then
  local places = redis.call('ZRANGEBYSCORE', webhooks.retries_key(id), '-inf', digits(now), 'LIMIT', 0, most)
  for _, place in ipairs(places) do
    due[#due + 1] = {place, redis.call('HGET', webhooks.undelivered_key(id), place)}
  end
end
local room = most_waiting - redis.call('ZCARD', webhooks.retries_key(id))
if #due < most and room > 0 then
  local found = redis.call('XRANGE', P .. 'events', '(' .. known[4], '+', 'COUNT', math.min(page_size, room))
  for _, entry in ipairs(found) do page[#page + 1] = {entry[1], entry[2][2]} end
end
return {now, math.floor(redis_us() / 1000), packed, tonumber(known[3] or '0'), known[4], due, page}
