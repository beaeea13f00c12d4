-- Forget the pair of a sign-in: it was revoked, or cannot be.

local key = sign_in_key(sign_in)
redis.call('ZREM', P .. 'consents', sign_in)
redis.call('HDEL', key, 'packed', 'revoke')
redis.call('PEXPIRE', key, kept_ms)
return 1
