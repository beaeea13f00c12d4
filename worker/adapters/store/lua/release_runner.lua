-- Give a runner's place back.

return redis.call('ZREM', runners_key(client), runner)
