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
elseif replaces then
  return {'moved', 0, ''}
end

put(id, old, new, due_at, attention_at)
audit_change('put', by, audit_kept, id, new)
return {'stored', new[VERSION], new[LINEAGE]}
