-- Note a new sign-in.
--
-- Returns when its link ends.

local key = sign_in_key(sign_in)
local known = redis.call('HGET', key, 'until_at')
if known then return tonumber(known) end
local until_at = now_ms() + link_ms
redis.call('HSET', key, 'phase', 'open', 'link', link, 'wanted', wanted, 'grant', id, 'until_at', digits(until_at))
redis.call('PEXPIRE', key, link_ms + kept_ms)
audit({what = 'connect', grant = id, labels = labels and cjson.decode(labels) or nil, at = now_ms(), actor = by[1],
  from = by[2]}, audit_kept)
return until_at
