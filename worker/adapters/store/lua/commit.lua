-- Store an answer: the new pair, its due time, the status, the release of the lease and the event, in one step.
--
-- The lineage decides, not the lease: an answer made from the stored refresh token holds the only living tokens,
-- however late it comes. An answer whose predecessors the store forgot (a restart without its last writes, a replica
-- that was behind) is stored too: the stored pair is then an older one of the same line.
--
-- Returns {verdict, version, status}. The verdicts: stored; known (it was stored before); superseded; gone; rebase (the
-- answer stands, but must be made anew as the successor of that version in that status).

local r = load(id)
if not r then return {'gone', 0, ''} end
if r[LAST] == fence then return {'known', r[VERSION], r[STATUS]} end

-- A higher fence is another's lease, for them to release. A lower fence belongs to a finished lease; the store may have
-- forgotten ours, which must not be reasserted after this.
local is_ours = r[FENCE] <= fence

local function release_ours()
  if is_ours then
    r[FENCE] = fence
    release(r)
  end
end

-- The stored pair is an ancestor of this answer: both descend from one import, and the answer is the younger.
local forgot = r[IMPORTED] == root and r[VERSION] < base_version and r[ISSUED_AT] < issued_at

-- A newer pair with the same lineage comes from a server that does not rotate, and is as good as ours.
local same_token = r[LINEAGE] == base_lineage
if not forgot and (not same_token or (r[VERSION] ~= base_version and lineage == base_lineage)) then
  release_ours()
  save(id, r)
  return {'superseded', r[VERSION], r[STATUS]}
end
if r[STATUS] ~= base_status or (r[VERSION] ~= base_version and not forgot) then
  return {'rebase', forgot and base_version or r[VERSION], r[STATUS]}
end

local now = now_ms()
if r[CLIENT] ~= client then give_to(client, id, r) end
local had_token = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] > r[ISSUED_AT]
count(r[CLIENT], 'refreshed', base_version + 1 - r[VERSION]) -- those that the store forgot are counted with it
note_answer(r[CLIENT], issued_at, id)
if had_token and now > r[ACCESS_EXPIRES_AT] then count(r[CLIENT], 'late', 1) end

r[VERSION] = base_version + 1
r[LINEAGE] = lineage
r[SEALED] = sealed
r[ISSUED_AT] = issued_at
r[ACCESS_EXPIRES_AT] = access_expires_at or false
r[STATED_LIFE] = stated_life_ms or false
r[REFRESH_ISSUED_AT] = refresh_issued_at
r[REFRESH_EXPIRES_AT] = refresh_expires_at or false
r[SCOPE] = scope or false
r[NARROWED] = narrowed or false
r[TOKEN_TYPE] = token_type or false
r[STREAK] = 0
r[REASON] = false
r[REJECTED_AT] = false
forget_promise(r)
forget_replies(r, true) -- this is one of them, or better
if is_ours then r[INTENT] = false end -- a later lease may be presenting
r[LAST] = fence
set_status(r, status)
release_ours()
save(id, r)
schedule(id, r, due_at)
note_attention(id, attention_at)
emit(event, events_kept)
return {'stored', r[VERSION], r[STATUS]}
