-- Do what an operator asks of one grant.
--
-- ARGV: id, verb: pause, resume or delete.
-- Returns done, unchanged or gone. Asking twice is harmless.

local id, verb = ARGV[1], ARGV[2]

if verb == 'delete' and try(load, id) == nil then
  drop_unreadable(id)
  return 'done'
end

local r = load(id)
if not r then return 'gone' end

if verb == 'delete' then
  local lasts_ms = r[LEASE_UNTIL] - now_ms()
  if lasts_ms > 0 then
    -- Somebody may be presenting its refresh token: if the same grant comes back meanwhile, it is theirs still.
    redis.call('SET', deleted_key(id), cmsgpack.pack(r), 'PX', digits(lasts_ms))
  end
  redis.call('DEL', grant_key(id))
  redis.call('ZREM', schedule_key(r[CLIENT]), id)
  count(r[CLIENT], 'grants:' .. r[STATUS], -1)
  mark(id, '')
  forget_unreadable(id)
  return 'done'
end

if verb == 'pause' then
  local paused = PAUSED[r[STATUS]]
  if not paused then return 'unchanged' end
  set_status(r, paused)
  save(id, r)
  schedule(id, r, '')
  mark(id, '')
  return 'done'
end

-- resume: a failed grant is given one more bout of tries; rejections before it do not count.
local resumed = (r[STREAK] > 0 and RESUMED_IN_BOUT or RESUMED)[r[STATUS]]
if not resumed then return 'unchanged' end
set_status(r, resumed)
r[REJECTED_AT] = false
save(id, r)
if r[STATUS] == 'failing' then mark(id, digits(r[ACCESS_EXPIRES_AT] or NO_END)) end
schedule(id, r, digits(math.max(now_ms(), r[LEASE_UNTIL])))
return 'done'
