-- Put a paused or failed grant back into the schedule. A failed one gets one more round of tries.
--
-- Returns done, unchanged (it is neither), kept (a reply is kept for it, which comes first), gone, or other_status (it
-- has not, or no more, the status that was asked for).

local r = load(id)
if not r then return 'gone' end

if r[KEPT_REPLY] then return 'kept' end
local resumed = (r[STREAK] > 0 and RESUMED_IN_BOUT or RESUMED)[r[STATUS]]
if not resumed then return 'unchanged' end
if only_if and r[STATUS] ~= only_if then return 'other_status' end

set_status(r, resumed)
r[REJECTED_AT] = false -- rejections before it do not count
save(id, r)
if r[STATUS] == 'failing' then note_attention(id, r[ACCESS_EXPIRES_AT] or NO_END) end
schedule(id, r, math.max(now_ms(), r[LEASE_UNTIL]))
audit_change('resume', by, audit_kept, id, r)
return 'done'
