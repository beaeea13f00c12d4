-- Keep a reply that nobody could read, and stop its endpoint at once: each further request may cost a grant.
--
-- The lineage decides, as for an answer: a reply to the stored refresh token most likely holds the only living tokens,
-- however late it comes. Where the store forgot how that token came (its pair is an older one of the same line), it is
-- given the pair back first.
--
-- Returns stored; known (it is kept already); superseded (the stored refresh token is another one, or the reply was
-- given up); gone.

local now = now_ms()

local function is_kept(r)
  local number = r[KEPT_REPLY]
  while number do
    local reply = kept_reply(number)
    if not reply then return false end
    if reply.fence == fence then return true end
    number = reply.earlier
  end
  return false
end

local function open_breaker()
  local endpoint = endpoint_key(token_url)
  local known = redis.call('HMGET', endpoint, 'state', 'recovered_at')
  if known[1] == 'unavailable' then
    if not is_probe then return end
    put_off_next_probe(endpoint, event_id, now, first_probe_ms, longest_probe_ms, 1, 'reason', reason)
  elseif sent_at > tonumber(known[2] or '0') then
    stop_endpoint(endpoint, reason, now, first_probe_ms)
    redis.call('HDEL', endpoint, 'suspect')
    emit(outage, events_kept)
  end
end

local r = load(id)
if not r then return 'gone' end
if is_kept(r) then return 'known' end

end_single(r[CLIENT], id)
-- A higher fence is another's lease, for them to release.
if r[FENCE] <= fence then
  r[FENCE] = fence
  release(r)
end

local forgot = r[IMPORTED] == root and r[VERSION] < version and r[ISSUED_AT] < issued_at
local is_this_pair = r[LINEAGE] == lineage and r[VERSION] == version
if redis.call('ZSCORE', P .. 'dropped', digits(fence)) or not (forgot or is_this_pair) then
  save(id, r)
  return 'superseded'
end
if r[CLIENT] ~= client then
  give_to(client, id, r)
  r[SEALED] = pair
end
if forgot then
  r[VERSION], r[LINEAGE], r[SEALED], r[ISSUED_AT] = version, lineage, pair, issued_at
  r[ACCESS_EXPIRES_AT] = access_expires_at or false
  r[REFRESH_ISSUED_AT], r[REFRESH_EXPIRES_AT] = refresh_issued_at, refresh_expires_at or false
  r[SCOPE] = scope or false
  r[STATED_LIFE] = stated_life_ms or false
  forget_promise(r)
end

local number = redis.call('HINCRBY', P .. 'replies', 'last', 1)
redis.call('SET', reply_key(digits(number)), sealed)
redis.call('HSET', P .. 'replies', digits(number), cmsgpack.pack({
  grant = id, client = r[CLIENT], token_url = token_url, registration = registration, version = version,
  fence = fence, sent_at = sent_at, received_at = received_at, detail = detail, size = size,
  access_expires_at = r[ACCESS_EXPIRES_AT], earlier = r[KEPT_REPLY] or false,
}))
redis.call('HSET', client_key(r[CLIENT]), 'unread_registration', registration)

tally(r[CLIENT], 'refreshes', counted)

local status = UNREAD[r[STATUS]]
local begins_bout = status ~= r[STATUS]
set_status(r, status)
r[REJECTED_AT] = false
r[KEPT_REPLY] = number
r[INTENT] = true
r[LAST] = math.max(r[LAST], fence)
if status == 'failing' then
  r[STREAK], r[REASON] = streak, reason
  note_attention(id, r[ACCESS_EXPIRES_AT] or NO_END)
  if r[ACCESS_EXPIRES_AT] then
    redis.call('ZADD', P .. 'unread', digits(r[ACCESS_EXPIRES_AT]), digits(number))
  end
end
save(id, r)
schedule(id, r, nil)
if begins_bout then emit(event, events_kept) end
open_breaker()
return 'stored'
