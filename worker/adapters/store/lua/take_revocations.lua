-- Pairs that are to be revoked now: consents that nobody confirmed in time, and pairs that another one replaced. Each is
-- put off, so that it is tried again if this process dies, but only so often. What is a grant's by now is not revoked. A
-- store that recovers gives none: it may have forgotten a confirmation that a journal is about to give back.
--
-- Returns a list of {sign_in, id, packed, is_last}.

local now, _, recovering = epoch(recovery_ms, at_least, 0)
if recovering then return {} end
local found = {}

for _, sign_in in ipairs(redis.call('ZRANGEBYSCORE', P .. 'consents', '-inf', digits(now), 'LIMIT', 0, most)) do
  local key = sign_in_key(sign_in)
  local phase, id, packed, revoke, tries = unpack(redis.call('HMGET', key, 'phase', 'grant', 'packed', 'revoke',
    'tries'))
  if phase == 'consented' then
    redis.call('HSET', key, 'phase', 'revoked', 'revoke', packed)
    redis.call('HDEL', key, 'packed', 'code')
    revoke = packed
  end
  tries = tonumber(tries or '0') + 1
  if not revoke or of_line(id, cmsgpack.unpack(revoke)) then
    forget_pair(sign_in, kept_ms)
  else
    redis.call('HSET', key, 'tries', tries)
    redis.call('ZADD', P .. 'consents', digits(now + pause_ms * 2 ^ (tries - 1)), sign_in)
    found[#found + 1] = {sign_in, id, revoke, tries >= most_tries and 1 or 0}
  end
end
return found
