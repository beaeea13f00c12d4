-- Say that a process has given back what it knows: its leases and the answers of its journal.
--
-- ARGV: owner, settle ms, the epoch that it knows of.
-- Returns {epoch, recovering}. A confirmation of another epoch than the present one counts for nothing.

local owner, recovery_ms, known = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()

local number = epoch(now, recovery_ms)
if number == known then redis.call('SADD', P .. 'recovered', owner) end
local _, recovering = epoch(now, recovery_ms)
return {number, recovering and 1 or 0}
