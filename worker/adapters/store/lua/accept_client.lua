-- Let a rejected client work again.
--
-- Returns changed or unchanged. Repeated with the same event id, it returns the same and changes nothing more.

local state = client_key(client)
if redis.call('HGET', state, 'changed_by') == event_id then return 'changed' end
local known = redis.call('HMGET', state, 'state', 'believed_at', 'refusals')
if known[1] ~= 'rejected' then return 'unchanged' end
-- Where every grant was rejected, one more rejection shows nothing.
if known[2] and not is_refreshed then return 'unchanged' end

-- The grant that was answered is no suspect any more; the others that were refused are compared with it.
local refusals = {}
for _, each in ipairs(unpack_list(known[3])) do
  if each[1] ~= grant then refusals[#refusals + 1] = each end
end
redis.call('HSET', state, 'state', 'accepted', 'accepted_at', digits(now_ms()), 'changed_by', event_id,
  'refreshed_at', string.format('%.3f', now_us() / 1000), 'refusals', cmsgpack.pack(refusals))
redis.call('HDEL', state, 'rejected_at', 'probe_at', 'probe_delay', 'probed_by', 'reason', 'believed_at')
redis.call('DEL', rejections_key(client))
redis.call('HINCRBY', state, 'generation', 1)
look_at(client, now_ms(), false)
emit(event, events_kept)
return 'changed'
