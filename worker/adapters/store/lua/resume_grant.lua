-- Put a paused or failed grant back into the schedule. A failed one gets one more round of tries.
--
-- Returns done, unchanged (it is neither) or gone.

local r = load(id)
if not r then return 'gone' end

if r[STATUS] == 'failed' then
  set_status(r, 'failing')
elseif r[STATUS] == 'paused' then
  set_status(r, r[STREAK] > 0 and 'failing' or 'active')
else
  return 'unchanged'
end
save(id, r)
if r[STATUS] == 'failing' then note_attention(id, r[ACCESS_EXPIRES_AT] or NO_END) end
schedule(id, r, math.max(now_ms(), r[LEASE_UNTIL]))
return 'done'
