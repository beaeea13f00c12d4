-- Say that a process is present, and learn which epoch the store is in.
--
-- ARGV: owner, settle ms, what keeps it from claiming ('' for nothing).
-- Returns {now, epoch, recovering}.

local owner, recovery_ms, trouble = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = now_ms()

local number, recovering = epoch(now, recovery_ms)
redis.call('ZADD', P .. 'processes', digits(now), owner)
if trouble == '' then
  redis.call('HDEL', P .. 'troubles', owner)
else
  redis.call('HSET', P .. 'troubles', owner, trouble)
end
return {now, number, recovering and 1 or 0}
