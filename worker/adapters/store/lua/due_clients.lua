-- The clients that something may be claimed of now, in the order of the agenda. Those of which nothing may are moved to
-- when it may be.
--
-- Returns {names, whether there are more}. The next page begins after all the names that were returned.

local now = now_ms()
local page = redis.call('ZRANGEBYSCORE', P .. 'agenda', '-inf', digits(now), 'LIMIT', offset, limit)
local names = {}
for _, client in ipairs(page) do
  if try_look_at(client, now) then names[#names + 1] = client end
end
return {names, #page == limit and 1 or 0}
