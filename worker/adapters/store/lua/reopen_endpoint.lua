-- Let an endpoint be used again that was stopped for replies that could not be read, once none of them is kept.
--
-- Returns changed or unchanged. Repeated with the same event id, it returns the same and changes nothing more.

local endpoint = endpoint_key(token_url)
local known = redis.call('HMGET', endpoint, 'state', 'reason', 'recovered_by')
if known[3] == event_id then return 'changed' end
if known[1] ~= 'unavailable' or known[2] ~= reason then return 'unchanged' end
if any_kept_reply(function(reply) return reply.token_url == token_url end) then return 'unchanged' end

recover_endpoint(endpoint, event_id, grant)
emit(event, events_kept)
return 'changed'
