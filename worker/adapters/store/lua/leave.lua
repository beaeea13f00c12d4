-- Say that a process is gone: nobody waits for it any more.
--
-- ARGV: owner.

local owner = ARGV[1]
redis.call('ZREM', P .. 'present', owner)
redis.call('SREM', P .. 'confirmed', owner)
return redis.call('HDEL', P .. 'troubles', owner)
