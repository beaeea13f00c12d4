-- Make a confirmed consent a grant, in the place of the stored one if that is its base.
--
-- Returns {verdict, version, status} of the stored grant. The verdicts: stored; known (the stored grant is of this very
-- line); superseded (the consent was revoked, a newer pair is stored, or nobody knows any more whether the grant was
-- deleted); rebase (another version or status is stored).

local key = sign_in_key(sign_in)
local phase = redis.call('HGET', key, 'phase')
local new = cmsgpack.unpack(packed)
local old = try(load, id)

local function settle(replaced)
  redis.call('HSET', key, 'phase', 'confirmed', 'grant', id)
  forget_pair(sign_in, kept_ms)
  if replaced then
    redis.call('HSET', key, 'revoke', cmsgpack.pack(replaced))
    redis.call('HDEL', key, 'tries')
    redis.call('PERSIST', key)
    redis.call('ZADD', P .. 'consents', digits(now_ms()), sign_in)
  end
end

local grant = of_line(id, new)
if grant and grant[ISSUED_AT] >= new[ISSUED_AT] then
  if phase ~= 'confirmed' then settle() end
  return {'known', grant[VERSION], grant[STATUS]}
end
-- A journal may be found after days. Its sign-in is forgotten by then, and the grant may have been deleted.
local is_forgotten = not phase and now_ms() - new[ISSUED_AT] > kept_ms
if phase == 'confirmed' or phase == 'revoked' or is_forgotten then
  return {'superseded', old and old[VERSION] or 0, old and old[STATUS] or ''}
end
if old == nil then
  if is_of_newer_format(id) then error('NEWER FORMAT') end
  drop_unreadable(id)
  old = false
end
if old then
  if old[ISSUED_AT] > new[ISSUED_AT] then return {'superseded', old[VERSION], old[STATUS]} end
  if old[VERSION] ~= base_version or old[STATUS] ~= base_status then return {'rebase', old[VERSION], old[STATUS]} end
  forget_replies(old, false)
elseif base_version then
  return {'rebase', 0, ''}
end

put(id, old, new, due_at, attention_at)
audit_change('confirm', by, audit_kept, id, new)
emit(event, events_kept)
settle(revokes and old and old[LINEAGE] ~= new[LINEAGE] and old)
return {'stored', new[VERSION], new[STATUS]}
