-- Pause a client whose credentials were refused. Where it is rejected already and this was its probe, put the next one
-- off.
--
-- Returns changed; unchanged (it is rejected already, or was accepted since the request left); grant (only that grant
-- was refused: the client is well). Repeated with the same event id, it returns the same and changes nothing more.

local state = client_key(client)
if redis.call('HGET', state, 'changed_by') == event_id then return 'changed' end
local now = now_ms()

if redis.call('HGET', state, 'state') == 'rejected' then
  if is_probe and redis.call('HGET', state, 'probed_by') ~= event_id then
    local delay = math.min(tonumber(redis.call('HGET', state, 'probe_delay') or first_probe_ms) * 2, longest_probe_ms)
    redis.call('HSET', state, 'probe_delay', digits(delay), 'probe_at', digits(now + delay), 'probed_by', event_id)
  end
  return 'unchanged'
end

-- The request left before the client was accepted again: its refusal is out of date.
if sent_at <= tonumber(redis.call('HGET', state, 'accepted_at') or '0') then return 'unchanged' end

-- This grant's refusal paused the client before, and then another grant showed that the client is well.
if redis.call('HGET', state, 'suspect') == grant then return 'grant' end

redis.call('HSET', state, 'state', 'rejected', 'rejected_at', digits(now), 'reason', reason, 'suspect', grant,
  'probe_delay', digits(first_probe_ms), 'probe_at', digits(now + first_probe_ms), 'changed_by', event_id)
emit(event, events_kept)
return 'changed'
