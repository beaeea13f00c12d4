-- Store an answer: the new pair, its due time, the status, the release of the lease and the event, in one step.
--
-- The lineage decides, not the lease: an answer made from the refresh token that is still stored holds the only
-- living tokens, however late it comes.
--
-- ARGV: id, fence, base lineage, base version, sealed, lineage, issued at, access expires at, refresh issued at,
--       refresh expires at, scope, due, attention, event if it was well, event if it was failing, events kept.
--       Instants in ms; '' is never or none.
-- Returns {verdict, version}: stored, superseded, gone, or rebase (the answer stands, but must be sealed and
-- sent again as the successor of that version).

local id, fence = ARGV[1], tonumber(ARGV[2])
local base_lineage, base_version = ARGV[3], tonumber(ARGV[4])
local sealed, lineage = ARGV[5], ARGV[6]

local function instant(text) return text ~= '' and tonumber(text) end

local r = load(id)
if not r then return {'gone', 0} end
if r[LAST] == fence then return {'stored', r[VERSION]} end
if r[LINEAGE] ~= base_lineage then return {'superseded', r[VERSION]} end
if r[VERSION] ~= base_version then
  -- The stored pair is newer and comes from the same refresh token. If that was rotated by our answer, ours are
  -- the only living tokens; if the server does not rotate, the newer ones are as good.
  if lineage == base_lineage then return {'superseded', r[VERSION]} end
  return {'rebase', r[VERSION]}
end

local now = now_ms()
count(r[CLIENT], 'refreshed', 1)
if r[ACCESS_EXPIRES_AT] and now > r[ACCESS_EXPIRES_AT] then count(r[CLIENT], 'late', 1) end

tell((r[STATUS] == 'failing' or r[STATUS] == 'failed') and ARGV[15] or ARGV[14], ARGV[16])
if r[STATUS] ~= 'paused' then set_status(r, 'active') end

r[VERSION] = base_version + 1
r[LINEAGE] = lineage
r[SEALED] = sealed
r[ISSUED_AT] = tonumber(ARGV[7])
r[ACCESS_EXPIRES_AT] = instant(ARGV[8])
r[REFRESH_ISSUED_AT] = tonumber(ARGV[9])
r[REFRESH_EXPIRES_AT] = instant(ARGV[10])
r[SCOPE] = ARGV[11] ~= '' and ARGV[11]
r[STREAK] = 0
r[REASON] = false
r[INTENT] = false
r[LAST] = fence
-- Another may hold the lease by now: it is theirs to release.
if r[FENCE] == fence then release(r) end

save(id, r)
schedule(id, r, ARGV[12])
mark(id, ARGV[13])
return {'stored', r[VERSION]}
