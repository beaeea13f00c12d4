-- Keep what a provider gave for a code, until somebody confirms it or its time is over. A journal may offer it long
-- after: what became a grant meanwhile is left alone, for its pair is never to be revoked.
--
-- Returns stored; known; superseded (it was confirmed, or revoked).

local key = sign_in_key(sign_in)
local phase, known = unpack(redis.call('HMGET', key, 'phase', 'fence'))
if phase == 'confirmed' or phase == 'revoked' then return 'superseded' end
if phase == 'consented' then return known == digits(fence) and 'known' or 'superseded' end
local r = cmsgpack.unpack(packed)
local grant = of_line(id, r)
if grant and grant[ISSUED_AT] >= r[ISSUED_AT] then return 'superseded' end
redis.call('HSET', key, 'phase', 'consented', 'fence', digits(fence), 'code', code, 'until_at', digits(until_at),
  'wanted', wanted, 'grant', id, 'packed', packed)
redis.call('PERSIST', key)
redis.call('ZADD', P .. 'consents', digits(until_at), sign_in)
audit_change('consent', by, audit_kept, id, r)
return 'stored'
