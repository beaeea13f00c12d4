-- Store a grant that came from outside.
--
-- Returns {verdict, version, lineage}. The verdicts: stored; exists; moved (another version is stored than the one to
-- be replaced); descends (the stored pair was made from this very pair, which is dead by now); newer (the stored pair
-- was issued later); unknown_format (a newer release wrote the stored record).

local old = try(load, id)
if old == nil and not replaces then return {'exists', 0, ''} end
if old == nil then
  if is_of_newer_format(id) then return {'unknown_format', 0, ''} end
  drop_unreadable(id)
  old, replaces = false, nil
end
local new = cmsgpack.unpack(packed)

-- A process that refreshes the old pair keeps its lease until it is done; its outcome will find another lineage.
local function keep_lease(before)
  new[LEASE_OWNER], new[LEASE_UNTIL] = before[LEASE_OWNER], before[LEASE_UNTIL]
  new[FENCE], new[LAST] = before[FENCE], before[LAST]
  if before[LINEAGE] == new[LINEAGE] then new[INTENT] = before[INTENT] end
end

-- The same pair, sealed anew: what came to it still has the living tokens.
local function keep_reply(before)
  if not before[KEPT_REPLY] then return end
  new[KEPT_REPLY], new[REASON], new[STREAK] = before[KEPT_REPLY], before[REASON], before[STREAK]
  new[STATUS] = UNREAD[new[STATUS]]
end

if old then
  -- The same line sent twice, because the first reply was lost.
  if old[SEALED] == new[SEALED] then return {'stored', old[VERSION], old[LINEAGE]} end
  if not replaces then return {'exists', old[VERSION], old[LINEAGE]} end
  if old[VERSION] ~= replaces then return {'moved', old[VERSION], old[LINEAGE]} end
  if old[LINEAGE] ~= new[LINEAGE] then
    -- An old file or a repeated line must never replace a living pair with a dead one.
    if old[IMPORTED] == new[LINEAGE] then return {'descends', old[VERSION], old[LINEAGE]} end
    if new[ISSUED_AT] < old[ISSUED_AT] then return {'newer', old[VERSION], old[LINEAGE]} end
    forget_replies(old, false)
  else
    new[IMPORTED] = old[IMPORTED]
    new[PROMISED_UNTIL] = old[PROMISED_UNTIL]
    keep_reply(old)
  end
  count(old[CLIENT], 'grants:' .. old[STATUS], -1)
  delist(old[CLIENT], id)
  keep_lease(old)
elseif replaces then
  return {'moved', 0, ''}
else
  local deleted = redis.call('GET', deleted_key(id))
  if deleted then keep_lease(cmsgpack.unpack(deleted)) end
end

redis.call('SADD', P .. 'clients', new[CLIENT])
forget_unreadable(id)
save(id, new)
count(new[CLIENT], 'grants:' .. new[STATUS], 1)
enlist(new[CLIENT], id)
schedule(id, new, due_at)
note_attention(id, attention_at)
audit_change('put', by, audit_kept, id, new)
return {'stored', new[VERSION], new[LINEAGE]}
