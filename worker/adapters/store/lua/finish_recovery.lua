-- Say that a process has given back what it knows: its leases and the answers of its journal.
--
-- Returns {epoch, recovering}. A process that recovered in an earlier epoch is not noted.

local now, number, recovering = epoch(recovery_ms, at_least, known_epoch)
if leapt_ms then wait_for_requests(now, number, recovering, leapt_ms, nil, recovery_ms) end
if number == known_epoch then redis.call('SADD', P .. 'recovered', owner) end
local _, following, still_recovering = epoch(recovery_ms, at_least, known_epoch)
return {following, still_recovering and 1 or 0}
