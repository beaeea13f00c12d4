-- Write an audit entry that belongs to no change in the store: what is asked of a provider, or who was not let in.
-- Repeated with the same request id, it writes no second entry.

local REPEATABLE_MS = 60000

if not redis.call('SET', handed_key(request_id), '', 'NX', 'PX', REPEATABLE_MS) then return 0 end
audit_change(what, by, audit_kept, id, id and try(load, id))
return 1
