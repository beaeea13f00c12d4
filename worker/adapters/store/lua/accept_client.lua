-- Let a rejected client work again.
--
-- Returns changed or unchanged. Repeated with the same event id, it returns the same and changes nothing more.

local state = client_key(client)
if redis.call('HGET', state, 'changed_by') == event_id then return 'changed' end
if redis.call('HGET', state, 'state') ~= 'rejected' then return 'unchanged' end

redis.call('HSET', state, 'state', 'accepted', 'accepted_at', digits(now_ms()), 'changed_by', event_id)
redis.call('HDEL', state, 'rejected_at', 'probe_at', 'probe_delay', 'probed_by', 'reason')
if redis.call('HGET', state, 'suspect') == grant then redis.call('HDEL', state, 'suspect') end
redis.call('HINCRBY', state, 'generation', 1)
emit(event, events_kept)
return 'changed'
