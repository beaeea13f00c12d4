-- Forget an API key. From here on no call is let in with it.
--
-- Returns whether there was one.

redis.call('HDEL', P .. 'keyuses', id)
return redis.call('HDEL', P .. 'apikeys', id)
