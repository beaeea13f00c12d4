-- Take a grant out of the schedule.
--
-- Returns done, unchanged (it is paused already) or gone.

local r = load(id)
if not r then return 'gone' end
local paused = PAUSED[r[STATUS]]
if not paused then return 'unchanged' end

set_status(r, paused)
save(id, r)
schedule(id, r, nil)
note_attention(id, nil)
return 'done'
