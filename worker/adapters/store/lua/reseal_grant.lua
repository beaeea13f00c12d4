-- Put a grant's pair back, sealed anew.
--
-- Returns done, gone, changed (the grant has another pair by now), or leased (the holder may be about to replace it).

local r = load(id)
if not r then return 'gone' end
if r[SEALED] ~= sealed then return 'changed' end
if is_leased(r, now_ms()) then return 'leased' end

r[SEALED] = resealed
save(id, r)
return 'done'
