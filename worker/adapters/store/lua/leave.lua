-- Say that a process is gone: nobody waits for it any more.

redis.call('ZREM', P .. 'processes', owner)
redis.call('SREM', P .. 'recovered', owner)
redis.call('HDEL', P .. 'untaken', owner)
return redis.call('HDEL', P .. 'troubles', owner)
