-- Let an unavailable endpoint be used again.
--
-- Returns changed or unchanged. Repeated with the same event id, it returns the same and changes nothing more.

local endpoint = endpoint_key(token_url)
if redis.call('HGET', endpoint, 'recovered_by') == event_id then return 'changed' end
if redis.call('HGET', endpoint, 'state') ~= 'unavailable' then return 'unchanged' end

recover_endpoint(endpoint, event_id, grant)
-- The client whose probe it was goes on at once, the others of this endpoint when they are looked at next.
local r = try(load, grant)
if r then look_at(r[CLIENT], now_ms(), false) end
emit(event, events_kept)
return 'changed'
