-- Pause a client whose credentials are refused, or let it work again.
--
-- ARGV: verb: reject or accept; client, event, events kept, event id, grant id; for reject: sent at, probe ('1' or
--       '0'), first delay ms, longest delay ms, reason.
-- Returns changed, unchanged, or grant: the refusal was about that grant alone. Run twice with one event id, it says
-- and does the same.

local verb, client, event, keep, event_id, grant = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local state = client_key(client)
if redis.call('HGET', state, 'changed_by') == event_id then return 'changed' end
local rejected = redis.call('HGET', state, 'state') == 'rejected'
local suspect = redis.call('HGET', state, 'suspect')
local now = now_ms()

if verb == 'accept' then
  if not rejected then return 'unchanged' end
  redis.call('HSET', state, 'state', 'accepted', 'accepted_at', digits(now), 'changed_by', event_id)
  redis.call('HDEL', state, 'rejected_at', 'probe_at', 'probe_delay', 'probed_by', 'reason')
  if suspect == grant then redis.call('HDEL', state, 'suspect') end
  redis.call('HINCRBY', state, 'generation', 1)
  tell(event, keep)
  return 'changed'
end

local sent_at, probe, first_ms, longest_ms = tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])

if rejected then
  if probe == '1' and redis.call('HGET', state, 'probed_by') ~= event_id then
    local delay = math.min(tonumber(redis.call('HGET', state, 'probe_delay')) * 2, longest_ms)
    redis.call('HSET', state, 'probe_delay', digits(delay), 'probe_at', digits(now + delay), 'probed_by', event_id)
  end
  return 'unchanged'
end

-- An answer to a request that left before the client was accepted again is old news.
if sent_at <= tonumber(redis.call('HGET', state, 'accepted_at') or '0') then return 'unchanged' end

-- This grant's answer paused the client before, and then another grant showed that the client is well.
if suspect == grant then return 'grant' end

redis.call('HSET', state, 'state', 'rejected', 'rejected_at', digits(now), 'reason', ARGV[11], 'suspect', grant,
  'probe_delay', digits(first_ms), 'probe_at', digits(now + first_ms), 'changed_by', event_id)
tell(event, keep)
return 'changed'
