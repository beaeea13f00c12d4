-- Take back a lease that the store may have forgotten.
--
-- Returns kept (the store knows this lease, or a later one), restored or gone.

local r = load(id)
if not r then return 'gone' end
if r[FENCE] >= fence then return 'kept' end

r[FENCE] = fence
r[LEASE_OWNER] = owner
r[LEASE_UNTIL] = until_at
r[INTENT] = true
r[PROMISED_UNTIL] = false -- the lease was given over it, or after it
save(id, r)
schedule(id, r, until_at)
if fence > tonumber(redis.call('GET', P .. 'fence') or '0') then
  redis.call('SET', P .. 'fence', digits(fence))
end
return 'restored'
