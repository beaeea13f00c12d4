-- The consent that a code confirms, with a fence for the confirmation.
--
-- Returns {verdict, packed, wanted, fence, id}. The verdicts: found; unknown; used.

local phase, known, wanted, until_at, packed, id = unpack(redis.call('HMGET', sign_in_key(sign_in), 'phase',
  'code', 'wanted', 'until_at', 'packed', 'grant'))
if known ~= code then return {'unknown', '', '', 0, ''} end
if phase == 'confirmed' then return {'used', '', '', 0, ''} end
if phase ~= 'consented' or now_ms() > tonumber(until_at) then return {'unknown', '', '', 0, ''} end
return {'found', packed, wanted, next_fences(1), id}
