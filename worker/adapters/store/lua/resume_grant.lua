-- Put a paused or failed grant back into the schedule. A failed one gets one more round of tries.
--
-- Returns done, unchanged (it is neither) or gone.

local r = load(id)
if not r then return 'gone' end

local resumed = (r[STREAK] > 0 and RESUMED_IN_BOUT or RESUMED)[r[STATUS]]
if not resumed then return 'unchanged' end

set_status(r, resumed)
r[REJECTED_AT] = false -- rejections before it do not count
save(id, r)
if r[STATUS] == 'failing' then note_attention(id, r[ACCESS_EXPIRES_AT] or NO_END) end
schedule(id, r, math.max(now_ms(), r[LEASE_UNTIL]))
return 'done'
