-- Reserve the one place for a task that delivers. It ends by itself unless its task keeps it, so a killed task costs a
-- delay.
--
-- A task that is at work keeps its place for longer, or takes it where nobody has it. Else there is one only where
-- something is to be delivered.
--
-- Returns whether the task has it.

local key, now = P .. 'deliverer', now_ms()
local holder = redis.call('GET', key)
if holder and holder ~= task then return 0 end

local function is_after(place, other)
  local ms, number = place:match('^(%d+)-(%d+)$')
  local other_ms, other_number = other:match('^(%d+)-?(%d*)$')
  ms, other_ms = tonumber(ms), tonumber(other_ms)
  return ms > other_ms or ms == other_ms and tonumber(number) > (tonumber(other_number) or 0)
end

local last = webhooks.last_event()

local function is_to_be_served(id)
  local known = redis.call('HMGET', webhooks.key(id), 'disabled_at', 'hold_until', 'place')
  if known[1] then return false end
  local first = redis.call('ZRANGE', webhooks.retries_key(id), 0, 0, 'WITHSCORES')[2]
  if first and math.max(tonumber(first), tonumber(known[2] or '0')) <= now then return true end
  return redis.call('ZCARD', webhooks.retries_key(id)) < most_waiting and is_after(last, known[3])
end

local is_needed = is_at_work or holder
if not is_needed then
  local stored = redis.call('HGETALL', P .. 'webhooks')
  for at = 1, #stored, 2 do is_needed = is_needed or is_to_be_served(stored[at]) end
end
if not is_needed then return 0 end
redis.call('SET', key, task, 'PX', digits(place_ms))
return 1
