-- Give back a promise that the store may have forgotten.
--
-- Returns restored; kept (the store knows of it, or of a longer one); behind (the store has an older pair, and is still
-- given back the promised one); moved (a later pair took its place, or nobody knows any more: its refresh was
-- ordered); gone (or its record cannot be read).

local r = try(load, id)
if not r then return 'gone' end
if r[VERSION] < version then return 'behind' end
if r[VERSION] > version or r[INTENT] then return 'moved' end
if is_promised(r, promised_until - 1) then return 'kept' end

r[PROMISED_UNTIL] = promised_until
save(id, r)
local score = redis.call('ZSCORE', schedule_key(r[CLIENT]), id)
if score and score ~= 'inf' and tonumber(score) < promised_until then schedule(id, r, promised_until) end
return 'restored'
