-- Put a kept reply back, sealed anew. Returns done, or gone (it was adopted or given up).

local key = reply_key(digits(number))
if redis.call('GET', key) ~= sealed then return 'gone' end
redis.call('SET', key, resealed)
return 'done'
