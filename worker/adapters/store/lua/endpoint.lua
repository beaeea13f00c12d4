-- Find out whose trouble an attempt without a usable answer is; let an endpoint that answers again be used again.
--
-- A grant is blamed only where the endpoint answered another meanwhile. Whatever else is the endpoint's trouble, or may
-- be: enough of it in a row, and nothing is sent there but a half-open probe now and then.
--
-- ARGV: verb: blame or absolve; token URL, event, events kept, event id, grant id; for blame: client, sent at, endpoint_probe
--       ('1' or '0'), reason, failure ('0' where the endpoint works and wants to be asked less), told to wait ('1' or
--       '0'), for how long in ms ('' where it was not said), chance (0 to 1), first delay ms, longest delay ms.
-- Returns {grant or provider, 1 if claims stop}, for blame; changed or unchanged, for absolve. Run twice with one event
-- id, it changes nothing more.

local verb, url, event, keep, event_id, grant = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

local FAILURES_TO_OPEN = 5
local FAILURES_KEPT = 20
local FAILURE_MEMORY_MS = 300000
local FIRST_THROTTLE_MS, LONGEST_THROTTLE_MS, THROTTLE_MEMORY_MS = 1000, 60000, 60000

local endpoint = endpoint_key(url)
local now = now_ms()
local unavailable = redis.call('HGET', endpoint, 'state') == 'unavailable'

if verb == 'record_recovery' then
  if redis.call('HGET', endpoint, 'recovered_by') == event_id then return 'changed' end
  if not unavailable then return 'unchanged' end
  redis.call('HSET', endpoint, 'state', 'available', 'recovered_at', digits(now), 'recovered_by', event_id)
  redis.call('HDEL', endpoint, 'since', 'reason', 'probe_at', 'probe_delay', 'probed_by', 'failures')
  if redis.call('HGET', endpoint, 'suspect') == grant then redis.call('HDEL', endpoint, 'suspect') end
  tell(event, keep)
  return 'changed'
end

local client, sent_at, endpoint_probe, reason = ARGV[7], tonumber(ARGV[8]), ARGV[9] == '1', ARGV[10]
local is_failure, throttled, retry_after_ms = ARGV[11] == '1', ARGV[12] == '1', tonumber(ARGV[13])
local chance, first_ms, longest_ms = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local recovered_at = tonumber(redis.call('HGET', endpoint, 'recovered_at') or '0')
local answered_at = tonumber(redis.call('ZSCORE', P .. 'answered', url) or '0')

local function spread(delay) return delay * (0.5 + 0.5 * chance) end

-- The whole client waits. Of answers that did not say how long, those to requests that left before the last one came
-- are the same news; each later one waits twice as long.
local function hold()
  local state = client_key(client)
  local known = redis.call('HMGET', state, 'throttled_until', 'throttled_at', 'throttle_delay', 'throttled_by')
  local throttled_until, held_at = tonumber(known[1] or '0'), tonumber(known[2] or '0')
  if known[4] == event_id then return end
  local wait_ms = retry_after_ms
  if not wait_ms then
    if sent_at <= held_at then return end
    local delay = FIRST_THROTTLE_MS
    if known[3] and now < throttled_until + THROTTLE_MEMORY_MS then
      delay = math.min(tonumber(known[3]) * 2, LONGEST_THROTTLE_MS)
    end
    redis.call('HSET', state, 'throttle_delay', digits(delay))
    wait_ms = spread(delay)
  end
  redis.call('HSET', state, 'throttled_until', digits(math.max(throttled_until, now + wait_ms)), 'throttled_at', digits(now),
    'throttled_by', event_id)
end

-- The endpoint's last failures, oldest first: {event id, grant, when the request left}.
local function failures_so_far()
  local packed = redis.call('HGET', endpoint, 'failures')
  return packed and cmsgpack.unpack(packed) or {}
end

-- Whether others were answered since this grant's first failure; what it met before it was refreshed last is over. One
-- that fails faster than others are answered would never be found out by its last request alone.
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

-- How many failed since the endpoint last answered, and whether all of them are one grant's.
local function in_a_row(failures)
  local number, alone = 0, true
  for _, each in ipairs(failures) do
    if each[3] > answered_at then
      number = number + 1
      alone = alone and each[2] == grant
    end
  end
  return number, alone
end

local function open(alone)
  redis.call('HSET', endpoint, 'state', 'unavailable', 'since', digits(now), 'reason', reason,
    'probe_delay', digits(first_ms), 'probe_at', digits(now + first_ms))
  if alone then
    redis.call('HSET', endpoint, 'suspect', grant)
  else
    redis.call('HDEL', endpoint, 'suspect')
  end
  tell(event, keep)
end

local function put_off_next_probe()
  if redis.call('HGET', endpoint, 'probed_by') == event_id then return end
  local delay = math.min(tonumber(redis.call('HGET', endpoint, 'probe_delay')) * 2, longest_ms)
  redis.call('HSET', endpoint, 'probe_delay', digits(delay), 'probe_at', digits(now + spread(delay)),
    'probed_by', event_id, 'reason', reason)
end

-- Claims stop for whatever reason: the client may have been told to wait, or rejected, by another's answer.
local function reply(whose)
  local passes, probed, tried = gates(client, url, now)
  return {whose, (not passes or probed or tried) and 1 or 0}
end

if throttled then hold() end

if unavailable then
  if not throttled and answered_at >= sent_at then return reply('grant') end
  if endpoint_probe and is_failure then put_off_next_probe() end
  return reply('provider')
end

-- A request that left before the endpoint recovered failed because of the outage.
if sent_at <= recovered_at then return reply('provider') end

local failures = failures_so_far()
if not throttled and is_about_grant(failures) then return reply('grant') end
if not is_failure then return reply('provider') end

remember(failures)
local number, alone = in_a_row(failures)
if number >= FAILURES_TO_OPEN then open(alone) end
return reply('provider')
