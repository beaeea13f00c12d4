-- Say that a process is gone: nobody waits for it any more.

redis.call('ZREM', P .. 'processes', owner)
redis.call('SREM', P .. 'recovered', owner)
redis.call('ZREM', P .. 'workers', owner)
redis.call('DEL', P .. 'batch:' .. owner)
redis.call('HDEL', P .. 'untaken', owner)
return redis.call('HDEL', P .. 'troubles', owner)
