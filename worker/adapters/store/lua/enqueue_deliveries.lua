-- Put events into a webhook's queue, and move its place behind them. `number` is how many the stream has in between.
--
-- Returns whether its place was where the caller found it: not where another task moved it on, where it was rewound, or where
-- this same call is repeated.

local key = webhooks.key(id)
local place, counted = unpack(redis.call('HMGET', key, 'place', 'counted'))
if place ~= from_place then return 0 end
local now = digits(now_ms())
for _, event in ipairs(events) do
  local at, body = event[1], event[2]
  if not redis.call('ZSCORE', webhooks.retries_key(id), at) then
    redis.call('HSET', webhooks.undelivered_key(id), at, cmsgpack.pack({0, body}))
    redis.call('ZADD', webhooks.retries_key(id), now, at)
  end
end
redis.call('HSET', key, 'place', to_place, 'counted', digits(tonumber(counted) + number))
return 1
