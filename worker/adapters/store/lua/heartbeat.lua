-- Say that a process lives, and learn which epoch the store is in.
--
-- Returns {now, epoch, recovering, when this store began (0 where an earlier release began it), how far its clock is ahead
-- of Redis's, when Redis's clock was last set (0 for never), by how much}.

local LEAP_MEMORY_MS = 60000

-- Every process tells of the same leap.
local function note_leap(now, by_ms)
  local known = redis.call('HMGET', P .. 'epoch', 'jumped_at', 'jumped_by')
  local is_noted = known[1] and tonumber(known[2]) > 0 and now - tonumber(known[1]) < LEAP_MEMORY_MS
  if not is_noted then note_jump(now, by_ms) end
end

local now, number, recovering = epoch(recovery_ms, at_least, recovered_epoch)
if leapt_ms then note_leap(now, leapt_ms) end
redis.call('ZADD', P .. 'processes', digits(now), owner)
if trouble then
  redis.call('HSET', P .. 'troubles', owner, trouble)
else
  redis.call('HDEL', P .. 'troubles', owner)
end
if #untaken > 0 then
  redis.call('HSET', P .. 'untaken', owner, cmsgpack.pack(untaken))
else
  redis.call('HDEL', P .. 'untaken', owner)
end
local known = redis.call('HMGET', P .. 'epoch', 'began_at', 'jumped_at', 'jumped_by')
return {now, number, recovering and 1 or 0, tonumber(known[1] or '0'), now - math.floor(redis_us() / 1000),
  tonumber(known[2] or '0'), tonumber(known[3] or '0')}
