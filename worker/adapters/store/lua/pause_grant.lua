-- Take a grant out of the schedule.
--
-- Returns done, unchanged (it is paused already), gone, or other_status (it has not, or no more, the status that was
-- asked for).

local r = load(id)
if not r then return 'gone' end
local paused = PAUSED[r[STATUS]]
if not paused then return 'unchanged' end
if only_if and r[STATUS] ~= only_if then return 'other_status' end

set_status(r, paused)
save(id, r)
schedule(id, r, nil)
note_attention(id, nil)
audit_change('pause', by, audit_kept, id, r)
return 'done'
