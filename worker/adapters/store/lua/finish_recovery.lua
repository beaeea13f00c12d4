-- Say that a process has given back what it knows: its leases and the answers of its journal.
--
-- Returns {epoch, recovering}. A process that recovered in an earlier epoch is not noted.

local _, number = epoch(recovery_ms, at_least, known_epoch)
if number == known_epoch then redis.call('SADD', P .. 'recovered', owner) end
local _, following, recovering = epoch(recovery_ms, at_least, known_epoch)
return {following, recovering and 1 or 0}
