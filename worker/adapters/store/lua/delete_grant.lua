-- Delete a grant, readable or not.
--
-- Returns done or gone.

local r = try(load, id)
if r == nil then
  drop_unreadable(id)
  return 'done'
end
if not r then return 'gone' end

-- A worker may be presenting its refresh token. If the grant is imported again meanwhile, that lease still holds.
local lease_left_ms = r[LEASE_UNTIL] - now_ms()
if lease_left_ms > 0 then
  redis.call('SET', deleted_key(id), cmsgpack.pack(r), 'PX', digits(lease_left_ms))
end
redis.call('DEL', grant_key(id))
redis.call('ZREM', schedule_key(r[CLIENT]), id)
count(r[CLIENT], 'grants:' .. r[STATUS], -1)
note_attention(id, nil)
forget_unreadable(id)
return 'done'
