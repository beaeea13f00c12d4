-- Store an answer: the new pair, its due time, the status, the release of the lease and the event, in one step.
--
-- The lineage decides, not the lease: an answer made from the refresh token that is still stored holds the only
-- living tokens, however late it comes. So does one whose predecessors the store forgot (a restart without its last
-- writes, a replica that was behind): what is stored is then an older pair of the same line.
--
-- ARGV: id, fence, base lineage, base version, base status, sealed, lineage, issued at, access expires at,
--       refresh issued at, refresh expires at, scope, status, due, attention, event, events kept,
--       root.
--       Instants in ms; '' is never or none.
-- Returns {verdict, version, status}: stored, known (it was stored before), superseded, gone, or rebase (the answer stands, but must be made anew
-- as the successor of that version in that status).

local id, fence = ARGV[1], tonumber(ARGV[2])
local base_lineage, base_version, base_status = ARGV[3], tonumber(ARGV[4]), ARGV[5]
local sealed, lineage, issued_at, root = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[18]

local function instant(text) return text ~= '' and tonumber(text) end

local r = load(id)
if not r then return {'gone', 0, ''} end
if r[LAST] == fence then return {'known', r[VERSION], r[STATUS]} end

-- Another may hold the lease by now: it is theirs to release. One from before ours is over, whatever a store that
-- forgot ours says; and ours is not to be asserted again after this.
local ours = r[FENCE] <= fence

local function release_ours()
  if ours then
    r[FENCE] = fence
    release(r)
  end
end

-- The stored pair is an ancestor of ours: both descend from one that came from outside, and ours is the younger.
local forgot = r[IMPORTED] == root and r[VERSION] < base_version and r[ISSUED_AT] < issued_at

-- The stored pair is another; or it is newer and made from the same refresh token by a server that does not rotate,
-- and then as good as ours.
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
local had_token = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] > r[ISSUED_AT]
count(r[CLIENT], 'refreshed', 1)
heard(r[CLIENT], issued_at, id)
if had_token and now > r[ACCESS_EXPIRES_AT] then count(r[CLIENT], 'late', 1) end

r[VERSION] = base_version + 1
r[LINEAGE] = lineage
r[SEALED] = sealed
r[ISSUED_AT] = issued_at
r[ACCESS_EXPIRES_AT] = instant(ARGV[9])
r[REFRESH_ISSUED_AT] = tonumber(ARGV[10])
r[REFRESH_EXPIRES_AT] = instant(ARGV[11])
r[SCOPE] = ARGV[12] ~= '' and ARGV[12]
r[STREAK] = 0
r[REASON] = false
r[REJECTED_AT] = false
if ours then r[INTENT] = false end -- else it is a later lease's, which may be presenting
r[LAST] = fence
set_status(r, ARGV[13])
release_ours()
save(id, r)
schedule(id, r, ARGV[14])
mark(id, ARGV[15])
tell(ARGV[16], ARGV[17])
return {'stored', r[VERSION], r[STATUS]}
