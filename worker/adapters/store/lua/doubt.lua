-- Note that a refresh token may have been presented, where the store forgot its lease and its intent, and the process
-- that knew of them died.
--
-- ARGV: id, fence, lineage.
-- Returns known (the store has heard of that lease or of a later one, or another token is stored), noted or gone.

local id, fence, lineage = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local r = load(id)
if not r then return 'gone' end
if r[FENCE] >= fence or r[LINEAGE] ~= lineage then return 'known' end

r[FENCE] = fence
r[INTENT] = true
save(id, r)
return 'noted'
