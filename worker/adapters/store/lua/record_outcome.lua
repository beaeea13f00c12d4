-- Store an outcome that brought no tokens, release the lease, and emit the event.
--
-- Returns stored; stale (the lease is another's, which will have its own outcome); superseded (the stored refresh token
-- is not the one that was tried, so the outcome says nothing about it); gone.

local r = load(id)
if not r then return 'gone' end
if answered_at then note_answer(r[CLIENT], answered_at) end
end_single(r[CLIENT], id)
if r[LAST] == fence then return 'stored' end
-- A store that forgot the lease takes its outcome all the same, if nobody has leased the grant since.
if r[FENCE] > fence or (r[FENCE] == fence and not r[LEASE_OWNER]) then return 'stale' end

r[FENCE] = fence
r[LAST] = fence
release(r)
tally(r[CLIENT], 'refreshes', counted)
if r[LINEAGE] ~= lineage then
  r[INTENT] = false -- nobody has presented the stored refresh token
  save(id, r)
  return 'superseded'
end

r[INTENT] = in_doubt
-- Where a reply is kept, it most likely has the living tokens, and no other outcome says more.
if UNMOVED_BY_OUTCOMES[r[STATUS]] or r[KEPT_REPLY] then
  save(id, r)
  schedule(id, r, nil)
  return 'stored'
end

-- Without an event, leave the status unchanged: the store may have forgotten how the grant came to be failing.
if not event and r[STATUS] ~= status then
  save(id, r)
  schedule(id, r, due_at)
  return 'stored'
end

set_status(r, status)
r[STREAK] = streak
r[REASON] = reason or false
r[REJECTED_AT] = rejected_at or false
r[NOTICED_AT] = noticed_at or false
save(id, r)
schedule(id, r, due_at)
note_attention(id, attention_at)
if believed_at then redis.call('ZADD', rejections_key(r[CLIENT]), digits(believed_at), id) end
emit(event, events_kept)
return 'stored'
