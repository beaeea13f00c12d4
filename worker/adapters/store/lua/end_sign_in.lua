-- Use a state up: the person is back from the provider. Only the browser that left with it can use it.
--
-- Returns {verdict, wanted, fence}. The verdicts: returned; unknown (no such state, or it was used); other_browser;
-- expired.

local key = sign_in_key(sign_in)
local phase, wanted, until_at, known, return_before, fence = unpack(redis.call('HMGET', key, 'phase', 'wanted',
  'until_at', 'state:' .. state, 'return_id', 'fence'))
if phase == 'returned' and return_before == return_id then return {'returned', wanted, tonumber(fence)} end
if not known or phase ~= 'open' then return {'unknown', '', 0} end
if known ~= browser then return {'other_browser', '', 0} end
redis.call('HDEL', key, 'state:' .. state)
if now_ms() > tonumber(until_at) then return {'expired', wanted, 0} end
fence = next_fences(1)
redis.call('HSET', key, 'phase', 'returned', 'return_id', return_id, 'fence', digits(fence))
return {'returned', wanted, fence}
