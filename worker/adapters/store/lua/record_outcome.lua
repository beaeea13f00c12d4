-- Store an outcome that brought no tokens, release the lease, and tell.
--
-- ARGV: id, fence, lineage, status, streak, reason, in doubt, noticed at, due, attention, event, events kept,
--       when the request left that the endpoint answered readably ('' where it did not).
-- Returns stored; stale (the lease is another's: whoever has it will find out for itself); superseded (the
-- stored refresh token is another than the one that was tried: nothing was learnt of it); gone.

local id, fence, lineage = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local r = load(id)
if not r then return 'gone' end
if ARGV[13] ~= '' then heard(r[CLIENT], tonumber(ARGV[13])) end
if r[LAST] == fence then return 'stored' end
-- A store that forgot the lease hears of its outcome all the same, as long as nobody had another since.
if r[FENCE] > fence or (r[FENCE] == fence and not r[LEASE_OWNER]) then return 'stale' end

r[FENCE] = fence
r[LAST] = fence
release(r)
if r[LINEAGE] ~= lineage then
  save(id, r)
  return 'superseded'
end

r[INTENT] = ARGV[7] == '1'
if UNMOVED_BY_OUTCOMES[r[STATUS]] then
  save(id, r)
  return 'stored'
end

-- A status changes with its event or not at all: a store that forgot how the grant came to be failing keeps its own.
if ARGV[11] == '' and r[STATUS] ~= ARGV[4] then
  save(id, r)
  schedule(id, r, ARGV[9])
  return 'stored'
end

set_status(r, ARGV[4])
r[STREAK] = tonumber(ARGV[5])
r[REASON] = ARGV[6] ~= '' and ARGV[6]
r[REJECTED_AT] = ARGV[14] ~= '' and tonumber(ARGV[14])
r[NOTICED_AT] = ARGV[8] ~= '' and tonumber(ARGV[8])
save(id, r)
schedule(id, r, ARGV[9])
mark(id, ARGV[10])
tell(ARGV[11], ARGV[12])
return 'stored'
