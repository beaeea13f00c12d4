-- Forget the pair of a sign-in: it was revoked, or cannot be.

local key = connection_key(connection)
redis.call('ZREM', P .. 'consents', connection)
redis.call('HDEL', key, 'packed', 'revoke')
redis.call('PEXPIRE', key, kept_ms)
return 1
