-- Give a runner's place back.

return redis.call('ZREM', P .. 'runners', runner)
