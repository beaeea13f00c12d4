-- Note that a browser sets out to the provider. A link may be opened several times, by a preview of it too: it is used
-- once somebody has come back.
--
-- Returns {verdict, wanted}. The verdicts: started; unknown (no such link, or it was used); expired.

local key = sign_in_key(sign_in)
local phase, known, wanted, until_at, starts = unpack(redis.call('HMGET', key, 'phase', 'link', 'wanted', 'until_at',
  'starts'))
if known ~= link or phase ~= 'open' then return {'unknown', ''} end
if now_ms() > tonumber(until_at) then return {'expired', wanted} end
if redis.call('HGET', key, 'state:' .. state) then return {'started', wanted} end
if tonumber(starts or '0') >= most then return {'unknown', ''} end
redis.call('HINCRBY', key, 'starts', 1)
redis.call('HSET', key, 'state:' .. state, browser)
return {'started', wanted}
