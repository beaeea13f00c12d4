-- Claim a chunk of one client's due grants: lease, intent, and the due time moved to the end of the lease, so that
-- a dead worker's grants come back by themselves.
--
-- ARGV: client, claim id, owner, limit, lease ms, rate per second ('' for none), runner ('' for none).
-- Returns {now, generation, drained, wait ms, probe, {record, in doubt, id, ...}}.
-- Run twice with one claim id (a reply was lost), it gives the same leases again and takes none.

local client, claim_id, owner = ARGV[1], ARGV[2], ARGV[3]
local limit, lease_ms, rate = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local runner = ARGV[7]

local PROBE_AMONG = 5

local now = now_ms()
local until_ms = now + lease_ms
local state = client_key(client)
local claim_key = P .. 'claim:' .. claim_id

local function reply(drained, wait_ms, probe, leases)
  local generation = tonumber(redis.call('HGET', state, 'generation') or '0')
  return {now, generation, drained and 1 or 0, wait_ms, probe and 1 or 0, leases}
end

local function same_again(packed)
  local before, leases = cmsgpack.unpack(packed), {}
  for i, id in ipairs(before.ids) do
    local r = load(id)
    if r and r[FENCE] == before.fences[i] and leased(r, now) then
      leases[#leases + 1] = cmsgpack.pack(r)
      leases[#leases + 1] = before.doubts[i] and 1 or 0
      leases[#leases + 1] = id
    end
  end
  return reply(before.drained, 0, before.probe, leases)
end

-- How many requests the budget allows now, or how long until the next: a bucket that holds a second's worth.
local function budget()
  if not rate then return limit, 0 end
  local size = math.max(rate, 1)
  local level = tonumber(redis.call('HGET', state, 'budget') or size)
  local since = tonumber(redis.call('HGET', state, 'budget_at') or now)
  level = math.min(size, level + math.max(now - since, 0) * rate / 1000)
  local allowed = math.min(limit, math.floor(level))
  redis.call('HSET', state, 'budget', tostring(level), 'budget_at', digits(now))
  return allowed, math.ceil(math.max(1 - level, 0) * 1000 / rate)
end

local function spend(number)
  if rate and number > 0 then
    redis.call('HINCRBYFLOAT', state, 'budget', -number)
  end
end

-- Whom to lease. A probe takes another one each time: the client may be well, and only the grant that is due first
-- refused.
local function candidates(probe, allowed)
  local schedule_of_client = schedule_key(client)
  if not probe then
    return redis.call('ZRANGEBYSCORE', schedule_of_client, '-inf', digits(now), 'LIMIT', 0, allowed)
  end
  local first = redis.call('ZRANGEBYSCORE', schedule_of_client, '-inf', '(' .. FOREVER, 'LIMIT', 0, PROBE_AMONG)
  local turn = redis.call('HINCRBY', state, 'probes', 1) - 1
  return {first[turn % math.max(#first, 1) + 1]}
end

local function lease_all(ids)
  local leases, claimed = {}, {ids = {}, fences = {}, doubts = {}}
  for _, id in ipairs(ids) do
    local r = load(id)
    if not r then
      redis.call('ZREM', schedule_key(client), id)
    elseif leased(r, now) then
      schedule(id, r, digits(r[LEASE_UNTIL]))
    else
      local in_doubt = take_lease(id, r, owner, until_ms)
      leases[#leases + 1] = cmsgpack.pack(r)
      leases[#leases + 1] = in_doubt and 1 or 0
      leases[#leases + 1] = id
      table.insert(claimed.ids, id)
      table.insert(claimed.fences, r[FENCE])
      table.insert(claimed.doubts, in_doubt)
    end
  end
  return leases, claimed
end

local before = redis.call('GET', claim_key)
if before then return same_again(before) end
redis.call('HSET', state, 'claimed_at', digits(now))
if runner ~= '' then redis.call('ZADD', P .. 'runners:' .. client, digits(until_ms), runner) end

-- A rejected client's grants stay where they are, but for one at a time that finds out whether it is accepted again.
local probe = redis.call('HGET', state, 'state') == 'rejected'
if probe and tonumber(redis.call('HGET', state, 'probe_at')) > now then return reply(true, 0, false, {}) end
if probe then limit = 1 end

local allowed, wait_ms = budget()
if allowed == 0 then return reply(false, wait_ms, probe, {}) end

local ids = candidates(probe, allowed)
local leases, claimed = lease_all(ids)
spend(#claimed.ids)
claimed.drained, claimed.probe = probe or #ids < allowed, probe
if #claimed.ids > 0 then
  if probe then redis.call('HSET', state, 'probe_at', digits(until_ms)) end
  redis.call('SET', claim_key, cmsgpack.pack(claimed), 'PX', lease_ms)
end
return reply(claimed.drained, 0, probe, leases)
