-- Let a grant fail whose access token has ended while its reply could not be read. The reply is kept.
--
-- Returns changed or unchanged. Repeated, it changes nothing more.

if redis.call('ZREM', P .. 'unread', digits(number)) == 0 then return 'unchanged' end
local r = try(load, id)
if not r or not r[KEPT_REPLY] then return 'unchanged' end
local status = EXPIRED[r[STATUS]]
if not status or status == r[STATUS] then return 'unchanged' end

set_status(r, status)
r[REASON] = reason or false
save(id, r)
schedule(id, r, nil)
note_attention(id, r[ACCESS_EXPIRES_AT] or NO_END)
emit(event, events_kept)
return 'changed'
