-- Claim a chunk of one client's due grants: lease, intent, and the due time moved to the end of the lease, so that
-- a dead worker's grants come back by themselves.
--
-- ARGV: client, claim id, owner, limit, lease ms, rate per second ('' for none), runner ('' for none),
--       the epoch that this process has confirmed, token URL.
-- Returns {now, generation, drained, wait ms, let through as (1 a client_probe, 2 a half-open client_probe, 3 both), {record, in doubt, id,
--          ...}, recovering}.
-- Run twice with one claim id (a reply was lost), it gives the same leases again and takes none.

local client, claim_id, owner = ARGV[1], ARGV[2], ARGV[3]
local limit, lease_ms, rate = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local runner, confirmed, url = ARGV[7], tonumber(ARGV[8]), ARGV[9]

local LET_THROUGH_AMONG = 5
local SET_ASIDE_MS = 300000 -- what cannot be read
local LOOK_AGAIN_MS = 5000 -- whether the holder of a lease that ended is known to be gone by now

-- An endpoint that recovered gets its backlog at a rate that grows, and the most urgent of it first.
local SLOW_START_RATE, SLOW_START_DOUBLES_MS, SLOW_START_MS = 10, 5000, 60000
local URGENT_AMONG = 1000

local now = now_ms()
local until_ms = now + lease_ms
local state = client_key(client)
local claim_key = P .. 'claim:' .. claim_id

local function reply(drained, wait_ms, let_through, leases)
  local generation = tonumber(redis.call('HGET', state, 'generation') or '0')
  return {now, generation, drained and 1 or 0, wait_ms, let_through, leases, 0}
end

local function repeated_claim(packed)
  local before, leases = cmsgpack.unpack(packed), {}
  for i, id in ipairs(before.ids) do
    local r = load_front(id)
    if r and r[FENCE] == before.fences[i] and leased(r, now) then
      leases[#leases + 1] = r.packed
      leases[#leases + 1] = before.doubts[i] and 1 or 0
      leases[#leases + 1] = id
    end
  end
  return reply(before.drained, 0, before.let_through, leases)
end

-- The budget's rate, no more than the slow start's while that lasts; and whether it lasts.
local function slow_start_rate(recovered_at)
  local passed = now - recovered_at
  if passed < 0 or passed >= SLOW_START_MS then return rate, false end
  return math.min(rate or math.huge, SLOW_START_RATE * 2 ^ (passed / SLOW_START_DOUBLES_MS)), true
end

-- How many requests the budget allows now, or how long until so many as are worth a claim. The bucket holds a tenth of
-- a second's worth: no second sees much more than its budget, whatever was saved up before.
local function budget()
  if not rate then return limit, 0 end
  local size = math.max(rate / 10, 1)
  local worth = math.min(limit, math.max(math.floor(size / 2), 1))
  local level = tonumber(redis.call('HGET', state, 'budget') or size)
  local since = tonumber(redis.call('HGET', state, 'budget_at') or now)
  level = math.min(size, level + math.max(now - since, 0) * rate / 1000)
  redis.call('HSET', state, 'budget', tostring(level), 'budget_at', digits(now))
  if level < worth then return 0, math.ceil((worth - level) * 1000 / rate) end
  return math.min(limit, math.floor(level)), 0
end

local function spend(number)
  if rate and number > 0 then
    redis.call('HINCRBYFLOAT', state, 'budget', -number)
  end
end

local function first_due(number)
  return redis.call('ZRANGEBYSCORE', schedule_key(client), '-inf', digits(now), 'LIMIT', 0, number)
end

-- Whom to let through, due or not. It is another one each time: client and endpoint may be well, and only the grant
-- that is due first refused.
local function one_of_the_first(endpoint_probe)
  local first = redis.call('ZRANGEBYSCORE', schedule_key(client), '-inf', '(' .. FOREVER, 'LIMIT', 0,
    LET_THROUGH_AMONG)
  local turn = endpoint_probe and redis.call('HINCRBY', endpoint_key(url), 'probes', 1)
    or redis.call('HINCRBY', state, 'probes', 1)
  return {first[(turn - 1) % math.max(#first, 1) + 1]}
end

-- How long a grant can wait: until its access token ends. A dead one has lost what it had, so it waits for those that
-- would die while the slow start lasts, but not for those that outlive it.
local function can_wait_ms(id)
  local r = try(load_front, id)
  if not r then return 0 end -- it is healed away, or set aside
  local left = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] - now or NO_END
  return left > 0 and left or SLOW_START_MS
end

local function most_urgent(number)
  local found = first_due(URGENT_AMONG)
  if #found <= number then return found end
  local keys = {}
  for place, id in ipairs(found) do
    keys[place] = {can_wait_ms(id), place}
  end
  table.sort(keys, function(one, other)
    if one[1] ~= other[1] then return one[1] < other[1] end
    return one[2] < other[2]
  end)
  local ids = {}
  for i = 1, number do
    ids[i] = found[keys[i][2]]
  end
  return ids
end

-- What cannot be read must not come up at each claim, and is found again once it was put right.
local function set_aside(id)
  redis.call('ZADD', schedule_key(client), digits(now + SET_ASIDE_MS), id)
  note_unreadable(id)
end

-- The fronts of those that are free; the others wait for whoever has them.
local function free_among(ids)
  local free = {}
  for _, id in ipairs(ids) do
    local r = try(load_front, id)
    if r == nil then
      set_aside(id)
    elseif not r then
      redis.call('ZREM', schedule_key(client), id)
    elseif leased(r, now) then
      schedule(id, r, digits(r[LEASE_UNTIL]))
    elseif claimable_from(r) > now then
      schedule(id, r, digits(math.min(claimable_from(r), now + LOOK_AGAIN_MS)))
    else
      free[#free + 1] = r
    end
  end
  return free
end

local function lease_all(ids)
  local leases, claimed = {}, {ids = {}, fences = {}, doubts = {}}
  local free = free_among(ids)
  if #free > 0 then take_leases(free, owner, until_ms) end
  for place, r in ipairs(free) do
    leases[#leases + 1] = r.packed
    leases[#leases + 1] = r.in_doubt and 1 or 0
    leases[#leases + 1] = r.id
    claimed.ids[place], claimed.fences[place], claimed.doubts[place] = r.id, r[FENCE], r.in_doubt
  end
  return leases, claimed
end

local number, recovering = epoch(now, lease_ms)
if recovering or number ~= confirmed then return {now, 0, 1, 0, 0, {}, 1} end

local before = redis.call('GET', claim_key)
if before then return repeated_claim(before) end
redis.call('HSET', state, 'claimed_at', digits(now), 'endpoint', url)
if runner ~= '' then redis.call('ZADD', P .. 'runners:' .. client, digits(until_ms), runner) end

-- The grants of a rejected client or an unavailable endpoint stay where they are, but for one at a time that finds out
-- whether it is over.
local passes, client_probe, endpoint_probe, recovered_at = gates(client, url, now)
if not passes then return reply(true, 0, 0, {}) end
local alone = client_probe or endpoint_probe
local let_through = (client_probe and 1 or 0) + (endpoint_probe and 2 or 0)
if alone then limit = 1 end

local slow_start
rate, slow_start = slow_start_rate(recovered_at)
-- Sorting is dear: it ends when all that would be sorted is out within two seconds anyway.
local sorts = slow_start and not alone and rate < URGENT_AMONG / 2
local allowed, wait_ms = budget()
if allowed == 0 then return reply(false, wait_ms, let_through, {}) end

local ids = alone and one_of_the_first(endpoint_probe) or sorts and most_urgent(allowed) or first_due(allowed)
local leases, claimed = lease_all(ids)
spend(#claimed.ids)
claimed.drained, claimed.let_through = alone or #ids < allowed, let_through
if #claimed.ids > 0 then
  if client_probe then redis.call('HSET', state, 'probe_at', digits(until_ms)) end
  if endpoint_probe then redis.call('HSET', endpoint_key(url), 'probe_at', digits(until_ms)) end
  redis.call('SET', claim_key, cmsgpack.pack(claimed), 'PX', lease_ms)
end
return reply(claimed.drained, 0, let_through, leases)
