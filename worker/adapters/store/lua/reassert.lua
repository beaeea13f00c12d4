-- Take back a lease that the store may have forgotten.
--
-- ARGV: id, fence, owner, until.
-- Returns kept (the store knows of this lease, or of a later one), restored or gone. Asking twice is harmless.

local id, fence, owner, until_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])

local r = load(id)
if not r then return 'gone' end
if r[FENCE] >= fence then return 'kept' end

r[FENCE] = fence
r[LEASE_OWNER] = owner
r[LEASE_UNTIL] = until_ms
r[INTENT] = true
save(id, r)
schedule(id, r, digits(until_ms))
if fence > tonumber(redis.call('GET', P .. 'fence') or '0') then
  redis.call('SET', P .. 'fence', digits(fence))
end
return 'restored'
