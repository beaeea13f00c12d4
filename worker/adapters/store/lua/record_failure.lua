-- Attribute an attempt without a usable answer: to its grant, or to the provider.
--
-- It is the grant's only where the endpoint answered another grant meanwhile. Everything else is the endpoint's, or may
-- be. After enough such failures in a row the breaker opens: nothing is sent but a half-open probe now and then.
--
-- Returns {'grant' or 'provider', 1 if claims stop}. Repeated with the same event id, it changes nothing more.

local FAILURES_TO_OPEN = 5
local FAILURES_KEPT = 20
local FAILURE_MEMORY_MS = 300000
local FIRST_THROTTLE_MS, LONGEST_THROTTLE_MS, THROTTLE_MEMORY_MS = 1000, 60000, 60000

local now = now_ms()
local endpoint = endpoint_key(token_url)
local is_unavailable = redis.call('HGET', endpoint, 'state') == 'unavailable'
local recovered_at = tonumber(redis.call('HGET', endpoint, 'recovered_at') or '0')
local answered_at = tonumber(redis.call('ZSCORE', P .. 'answered', token_url) or '0')

local SPREAD = 0.5 + 0.5 * chance -- how much of a delay to wait

-- How long a throttled client waits where the server named no time; nil where it waits for this throttling already.
-- Replies to requests that left before the last throttling belong to it. Each later one doubles the wait.
local function next_throttle(throttled_until, throttled_at, last_delay)
  if sent_at <= throttled_at then return nil end
  if last_delay and now < throttled_until + THROTTLE_MEMORY_MS then
    return math.min(last_delay * 2, LONGEST_THROTTLE_MS)
  end
  return FIRST_THROTTLE_MS
end

-- Let the whole client wait.
local function throttle()
  local state = client_key(client)
  local known = redis.call('HMGET', state, 'throttled_until', 'throttled_at', 'throttle_delay', 'throttled_by')
  local throttled_until, throttled_at = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  if known[4] == event_id then return end
  local wait_ms = retry_after_ms
  if not wait_ms then
    local delay = next_throttle(throttled_until, throttled_at, known[3] and tonumber(known[3]))
    if not delay then return end
    redis.call('HSET', state, 'throttle_delay', digits(delay))
    wait_ms = delay * SPREAD
  end
  redis.call('HSET', state, 'throttled_until', digits(math.max(throttled_until, now + wait_ms)),
    'throttled_at', digits(now), 'throttled_by', event_id)
end

-- The endpoint's last failures, oldest first: {event id, grant, when the request left}.
local function failures_so_far()
  return unpack_list(redis.call('HGET', endpoint, 'failures'))
end

-- Whether others were answered since this grant's first failure. Counting from its last request alone would miss a
-- grant that fails faster than others are answered. Failures before its last refresh do not count. Both instants are by
-- their processes' clocks, each behind this one by as long as a reply took.
local function is_about_grant(failures)
  if redis.call('HGET', endpoint, 'suspect') == grant then return true end
  local r = try(load, grant)
  local since = math.max(now - FAILURE_MEMORY_MS, r and r[ISSUED_AT] or 0)
  local first_at = sent_at
  for _, each in ipairs(failures) do
    if each[2] == grant and each[3] > since then first_at = math.min(first_at, each[3]) end
  end
  return answered_at >= first_at
end

local function remember(failures)
  for _, each in ipairs(failures) do
    if each[1] == event_id then return end
  end
  failures[#failures + 1] = {event_id, grant, sent_at}
  if #failures > FAILURES_KEPT then table.remove(failures, 1) end
  redis.call('HSET', endpoint, 'failures', cmsgpack.pack(failures))
end

-- How many failures there were since the endpoint last answered, and whether all are this grant's.
local function in_a_row(failures)
  local number, is_alone = 0, true
  for _, each in ipairs(failures) do
    if each[3] > answered_at then
      number = number + 1
      is_alone = is_alone and each[2] == grant
    end
  end
  return number, is_alone
end

local function open_breaker(is_alone)
  stop_endpoint(endpoint, reason, now, first_probe_ms)
  if is_alone then
    redis.call('HSET', endpoint, 'suspect', grant)
  else
    redis.call('HDEL', endpoint, 'suspect')
  end
  emit(event, events_kept)
end

-- Claims stop for any reason: another answer may have throttled or rejected the client.
local function reply(whose)
  local admitted, client_probe, endpoint_probe = admission(client, token_url, now)
  return {whose, (not admitted or client_probe or endpoint_probe) and 1 or 0}
end

if throttled then throttle() end

if is_unavailable then
  if not throttled and answered_at >= sent_at then return reply('grant') end
  if is_probe and is_failure then
    put_off_next_probe(endpoint, event_id, now, first_probe_ms, longest_probe_ms, SPREAD, 'reason', reason)
  end
  return reply('provider')
end

-- A request that left before the endpoint recovered failed because of the outage.
if sent_at <= recovered_at then return reply('provider') end

local failures = failures_so_far()
if not throttled and is_about_grant(failures) then return reply('grant') end
if not is_failure then return reply('provider') end

remember(failures)
local number, is_alone = in_a_row(failures)
if number >= FAILURES_TO_OPEN then open_breaker(is_alone) end
return reply('provider')
