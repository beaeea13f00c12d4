-- Lease one grant, due or not.
--
-- ARGV: id, claim id, owner, lease ms, the epoch that this process has confirmed.
-- Returns {'leased', now, record, in doubt}, {'held', until}, {'recovering'}, {'paused'} or {'gone'}.
-- Run twice with one claim id, it gives the same lease again.

local id, claim_id, owner, lease_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local confirmed = tonumber(ARGV[5])
local now = now_ms()
local claim_key = P .. 'claim:' .. claim_id

local number, recovering = epoch(now, lease_ms)
if recovering or number ~= confirmed then return {'recovering'} end

local r = load_front(id)
if not r then return {'gone'} end
if r[STATUS] == 'paused' then return {'paused'} end

local before = redis.call('GET', claim_key)
if before then
  local claimed = cmsgpack.unpack(before)
  if r[FENCE] == claimed.fence and leased(r, now) then
    return {'leased', now, r.packed, claimed.doubt and 1 or 0}
  end
end

if leased(r, now) then return {'held', r[LEASE_UNTIL]} end
if claimable_from(r) > now then return {'held', claimable_from(r)} end

take_leases({r}, owner, now + lease_ms)
redis.call('SET', claim_key, cmsgpack.pack({fence = r[FENCE], doubt = r.in_doubt}), 'PX', lease_ms)
return {'leased', now, r.packed, r.in_doubt and 1 or 0}
