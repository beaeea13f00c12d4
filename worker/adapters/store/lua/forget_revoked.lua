-- Delete a grant whose tokens were revoked under a lease.
--
-- Returns done; gone; replaced (it has other tokens by now, which nobody revoked: it stays, and the lease ends).

local r = load(id)
if not r then return 'gone' end
if r[FENCE] == fence then release(r) end
if r[SEALED] ~= sealed then
  save(id, r)
  return 'replaced'
end

drop(id, r)
return 'done'
