-- Say that a process has given back what it knows: its leases and the answers of its journal.
--
-- ARGV: owner, settle ms, the epoch that it knows of.
-- Returns {epoch, settling}. A confirmation of another epoch than the present one counts for nothing.

local owner, settle_ms, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()

local number = epoch(now, settle_ms)
if number == known then redis.call('SADD', P .. 'confirmed', owner) end
local _, settling = epoch(now, settle_ms)
return {number, settling and 1 or 0}
