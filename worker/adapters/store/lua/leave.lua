-- Say that a process is gone: nobody waits for it any more.

redis.call('ZREM', P .. 'processes', owner)
redis.call('SREM', P .. 'recovered', owner)
return redis.call('HDEL', P .. 'troubles', owner)
