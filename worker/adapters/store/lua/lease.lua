-- Lease one grant, due or not. One that has a kept reply is leased only to adopt that reply.
--
-- Returns {'leased', now, record, in doubt}, {'held', until}, {'unproven', until} (the registration has not refreshed
-- anything yet, and another grant is being tried; until is 0 where a person must look at its reply first),
-- {'recovering'}, {'paused'}, {'kept', number} or {'gone'}.
-- Repeated with the same claim id, it returns the same lease.

local now, number, recovering = epoch(lease_ms, at_least, recovered_epoch)
if recovering or number ~= recovered_epoch then return {'recovering'} end

local r = load_front(id)
if not r then return {'gone'} end
local kept = fields(r.packed, MOST_FIELDS)[KEPT_REPLY]

local function has_reply()
  local each = kept
  while each and each ~= reply do
    local known = kept_reply(each)
    each = known and known.earlier
  end
  return each == reply
end

if reply and not has_reply() then return {'gone'} end
if r[STATUS] == 'paused' and not (even_paused or reply) then return {'paused'} end
if kept and not reply then return {'kept', kept} end

local before = redis.call('GET', claim_key(claim_id))
if before then
  local claimed = cmsgpack.unpack(before)
  if r[FENCE] == claimed.fence and is_leased(r, now) then
    return {'leased', now, r.packed, claimed.doubt and 1 or 0}
  end
end

if is_leased(r, now) then return {'held', r[LEASE_UNTIL]} end
if claimable_from(r) > now then return {'held', claimable_from(r)} end

local known = {}
known.single, known.single_until, known.proved, known.registration, known.unread = unpack(redis.call('HMGET',
  client_key(r[CLIENT]), 'single', 'single_until', 'proved', 'registration', 'unread_registration'))
-- Who revokes a grant, or adopts its reply, refreshes nothing.
local is_unproven = not (even_paused or reply) and known.registration and known.proved ~= known.registration
if is_unproven then
  if known.unread == known.registration then return {'unproven', 0} end
  local at_risk = grant_at_risk(r[CLIENT], known)
  local single_until = tonumber(known.single_until or '0')
  if single_until > now then return {'unproven', single_until} end
  if at_risk and at_risk ~= id then return {'unproven', now + lease_ms} end
end

take_leases({r}, owner, now + lease_ms)
if is_unproven then note_single(r[CLIENT], id, now + lease_ms, known.registration) end
if kept then write_schedule(r[CLIENT], FOREVER, FOREVER, id) end
local claimed = cmsgpack.pack({fence = r[FENCE], doubt = r.in_doubt})
redis.call('SET', claim_key(claim_id), claimed, 'PX', lease_ms)
return {'leased', now, r.packed, r.in_doubt and 1 or 0}
