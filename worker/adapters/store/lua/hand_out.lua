-- Hand out a grant's access token: promise until when the pair is not rotated, put the next refresh behind the promise, and
-- write the audit entry, in one step. No entry, no token.
--
-- A promise lasts until the planned refresh, some minutes at most. What is asked for may put that off, as far as is safe;
-- what is not asked for must not.
--
-- Returns {'unreadable', record}, {verdict, now, epoch} or {verdict, now, epoch, until, record, due at, obstacle, opens at}. Verdicts:
-- promised (until); unpromised (handed out as it is); unplanned (until when the pair may be promised has to be said
-- first); short (it cannot be promised for so long; until is the end of an outstanding promise); in_doubt (an earlier
-- reply is unknown, so the token may be dead by our hand); refused (it is the version that was refused); leased (a refresh
-- is in flight, or its holder is waited for, until); recovering; gone. Obstacles to a refresh: client_rejected,
-- provider_unavailable (until opens at), or none.
-- Repeated with the same request id, it promises the same and writes no second entry.

local REPEATABLE_MS = 60000

local now, number, recovering = epoch(recovery_ms, at_least, 0)
if recovering then return {'recovering', now, number} end

local r = try(load, id)
if r == false then return {'gone', now, number} end
local packed = redis.call('GET', grant_key(id))
if not r then return {'unreadable', packed} end
local score = redis.call('ZSCORE', schedule_key(r[CLIENT]), id)
local due_at = (not score or score == 'inf') and NO_END or tonumber(score)

local function reply(verdict, until_at, obstacle, opens_at)
  return {verdict, now, number, until_at, packed, due_at, obstacle or '', opens_at or 0}
end

-- What keeps anybody from refreshing a grant of this client now.
local function obstructed(verdict, until_at)
  local admitted, client_probe, endpoint_probe, _, opens_at = admission(r[CLIENT], nil, now)
  local obstacle = client_probe and 'client_rejected'
    or (endpoint_probe or not admitted) and 'provider_unavailable'
  return reply(verdict, until_at, obstacle, opens_at)
end

local function note_handed_out(promised_until)
  audit({what = 'token', grant = id, version = r[VERSION], labels = labels_of(r), at = now, actor = actor,
    from = origin, promised_until = promised_until}, audit_kept)
  redis.call('SET', handed_key(request_id),
    cmsgpack.pack({version = r[VERSION], promised_until = promised_until or 0}), 'PX', REPEATABLE_MS)
  tally(r[CLIENT], 'served', promised_until and 'promised' or 'unpromised')
end

-- Nothing is promised while a refresh may be on its way: it would end the old token.
local free_at = is_leased(r, now) and r[LEASE_UNTIL] or claimable_from(r)
if free_at > now then return reply('leased', free_at) end

local before = redis.call('GET', handed_key(request_id))
local handed = before and cmsgpack.unpack(before)
if handed and handed.version == r[VERSION] then
  local was_promised = handed.promised_until > 0
  return reply(was_promised and 'promised' or 'unpromised', handed.promised_until)
end

if refused_version == r[VERSION] then return obstructed('refused', r[PROMISED_UNTIL] or 0) end
if r[INTENT] then return obstructed('in_doubt', 0) end

local ends_at = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] - margin_ms or NO_END
local wanted_ms = min_ttl_ms or brief_ms
local needed_until = now + wanted_ms

if is_unpromised then
  if ends_at < needed_until then return obstructed('short', r[PROMISED_UNTIL] or 0) end
  note_handed_out(nil)
  return reply('unpromised', 0)
end

local is_at_work = not is_out_of_work(r)
if is_at_work and not r[PROMISABLE_UNTIL] then
  if planned_version ~= r[VERSION] then return reply('unplanned', 0) end
  r[PROMISABLE_UNTIL], r[OUTLIVES] = promisable_until, outlives
end

-- Nobody rotates a grant that is out of work. A token that outlives its refresh keeps its own life, and holds nothing
-- back.
local safe_until = is_at_work and math.min(ends_at, r[PROMISABLE_UNTIL]) or ends_at
local outstanding = r[PROMISED_UNTIL] or 0
local beyond = r[OUTLIVES] and (r[ACCESS_EXPIRES_AT] or now + longest_ms) or math.min(now + usual_ms, due_at)
local asked_until = min_ttl_ms and needed_until or 0
-- Never less than is promised already: while the grant was out of work, that could be more than is safe now.
local promised_until = math.max(outstanding, math.min(safe_until, math.max(asked_until, beyond)))

if promised_until < needed_until or promised_until <= now then
  -- A refresh at the end of the outstanding promise helps, unless a fresh token could not be promised for so long either.
  local is_reachable = safe_until - r[ISSUED_AT] >= wanted_ms
  if outstanding > now and due_at > outstanding and r[STATUS] == 'active' and is_reachable and not r[OUTLIVES] then
    due_at = outstanding
    schedule(id, r, due_at)
  end
  return obstructed('short', outstanding)
end

if not r[OUTLIVES] then
  r[PROMISED_UNTIL] = promised_until
  if due_at < promised_until then schedule(id, r, promised_until) end
end
packed = cmsgpack.pack(r)
redis.call('SET', grant_key(id), packed)
note_handed_out(promised_until)
return reply('promised', promised_until)
