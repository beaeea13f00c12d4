-- Lease one grant, due or not. One that has a kept reply is leased only to adopt that reply.
--
-- Returns {'leased', now, record, in doubt}, {'held', until}, {'unproven', until} (the registration has not refreshed
-- anything yet, and another grant is being tried; until is 0 where a person must look at its reply first),
-- {'recovering'}, {'paused'}, {'kept', number}, {'promised', until} (a token was handed out, and nobody may end it yet),
-- {'refused_lately', until} (the grant was refreshed for a refused token less than a minute ago) or {'gone'}.
-- A refused version that is no longer stored says nothing: the lease is {'moved'}.
-- Repeated with the same claim id, it returns the same lease.

local REFUSED_AGAIN_MS = 60000

local now = now_ms()

local number, recovering = epoch(now, lease_ms)
if recovering or number ~= recovered_epoch then return {'recovering'} end

local r = load_front(id)
if not r then return {'gone'} end
local whole = all_fields(r.packed)
local kept = whole[KEPT_REPLY]

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

-- A person's order ends a promise; so does an API that refused the very token that was promised.
local overrides = ends_promise or even_paused or reply or refused_version
if is_promised(whole, now) and not overrides then return {'promised', whole[PROMISED_UNTIL]} end
if refused_version then
  if refused_version ~= whole[VERSION] then return {'moved'} end
  local allowed_at = tonumber(redis.call('GET', refused_key(id)) or -REFUSED_AGAIN_MS) + REFUSED_AGAIN_MS
  if allowed_at > now then return {'refused_lately', allowed_at} end
end

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

if refused_version then redis.call('SET', refused_key(id), digits(now), 'PX', REFUSED_AGAIN_MS) end
if is_promised(whole, now) then
  whole[PROMISED_UNTIL] = false
  save(id, whole)
  r = load_front(id)
end
take_leases({r}, owner, now + lease_ms)
if is_unproven then note_single(r[CLIENT], id, now + lease_ms, known.registration) end
if kept then write_schedule(r[CLIENT], FOREVER, FOREVER, id) end
local claimed = cmsgpack.pack({fence = r[FENCE], doubt = r.in_doubt})
redis.call('SET', claim_key(claim_id), claimed, 'PX', lease_ms)
return {'leased', now, r.packed, r.in_doubt and 1 or 0}
