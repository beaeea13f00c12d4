-- Lease one grant, due or not.
--
-- Returns {'leased', now, record, in doubt}, {'held', until}, {'recovering'}, {'paused'} or {'gone'}.
-- Repeated with the same claim id, it returns the same lease.

local now = now_ms()

local number, recovering = epoch(now, lease_ms)
if recovering or number ~= recovered_epoch then return {'recovering'} end

local r = load_front(id)
if not r then return {'gone'} end
if r[STATUS] == 'paused' then return {'paused'} end

local before = redis.call('GET', claim_key(claim_id))
if before then
  local claimed = cmsgpack.unpack(before)
  if r[FENCE] == claimed.fence and is_leased(r, now) then
    return {'leased', now, r.packed, claimed.doubt and 1 or 0}
  end
end

if is_leased(r, now) then return {'held', r[LEASE_UNTIL]} end
if claimable_from(r) > now then return {'held', claimable_from(r)} end

take_leases({r}, owner, now + lease_ms)
local claimed = cmsgpack.pack({fence = r[FENCE], doubt = r.in_doubt})
redis.call('SET', claim_key(claim_id), claimed, 'PX', lease_ms)
return {'leased', now, r.packed, r.in_doubt and 1 or 0}
