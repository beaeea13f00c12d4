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

-- Add what the process has counted since its last heartbeat. A repeated heartbeat brings the same number. A counter that
-- holds no number is passed over: a heartbeat is worth more.
local function add_counts()
  local key = P .. 'batch:' .. owner
  if tonumber(redis.call('GET', key) or '0') >= batch then return end
  redis.call('SET', key, digits(batch), 'PX', DAY_MS)
  for _, each in ipairs(counts) do
    local client, counter, by = unpack(each)
    local counters = client == '' and P .. 'measures' or counters_key(client)
    redis.pcall('HINCRBY', counters, counter, digits(by))
  end
end

local now, number, recovering = epoch(recovery_ms, at_least, recovered_epoch)
if leapt_ms then note_leap(now, leapt_ms) end
redis.call('ZADD', P .. 'processes', digits(now), owner)
if is_worker then
  redis.call('ZREMRANGEBYSCORE', P .. 'workers', '-inf', digits(now - DAY_MS))
  redis.call('ZADD', P .. 'workers', digits(now), owner)
end
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
if #counts > 0 then add_counts() end
local known = redis.call('HMGET', P .. 'epoch', 'began_at', 'jumped_at', 'jumped_by')
return {now, number, recovering and 1 or 0, tonumber(known[1] or '0'), now - math.floor(redis_us() / 1000),
  tonumber(known[2] or '0'), tonumber(known[3] or '0')}
