-- Say that a process has given back what it knows: its leases and the answers of its journal.
--
-- Returns {epoch, recovering}. A process that recovered in an earlier epoch is not noted.

local now = now_ms()

local number = epoch(now, recovery_ms)
if number == known_epoch then redis.call('SADD', P .. 'recovered', owner) end
local _, recovering = epoch(now, recovery_ms)
return {number, recovering and 1 or 0}
