-- Let an unavailable endpoint be used again.
--
-- Returns changed or unchanged. Repeated with the same event id, it returns the same and changes nothing more.

local endpoint = endpoint_key(token_url)
if redis.call('HGET', endpoint, 'recovered_by') == event_id then return 'changed' end
if redis.call('HGET', endpoint, 'state') ~= 'unavailable' then return 'unchanged' end

redis.call('HSET', endpoint, 'state', 'available', 'recovered_at', digits(now_ms()), 'recovered_by', event_id)
redis.call('HDEL', endpoint, 'since', 'reason', 'probe_at', 'probe_delay', 'probed_by', 'failures')
if redis.call('HGET', endpoint, 'suspect') == grant then redis.call('HDEL', endpoint, 'suspect') end
emit(event, events_kept)
return 'changed'
