-- Claim a chunk of one client's due grants: lease, intent, and the due time moved to the end of the lease. So the
-- grants of a dead worker come back by themselves.
--
-- Returns {now, generation, drained, wait ms, probe (0 none, 1 of the client, 2 of the endpoint, 3 of both),
--          {record, in doubt, id, ...}, recovering}.
-- Repeated with the same claim id (a reply was lost), it returns the same leases and takes none.

local PROBE_CANDIDATES = 5
local SET_ASIDE_MS = 300000 -- for a record that cannot be read
local LOOK_AGAIN_MS = 5000 -- at a holder that is waited for: it may be known to be gone by then

-- Slow start: a recovered endpoint gets its backlog at a growing rate, the most urgent grants first.
local SLOW_START_RATE, SLOW_START_DOUBLES_MS, SLOW_START_MS = 10, 5000, 60000
local URGENT_AMONG = 1000

local now = now_ms()
local until_ms = now + lease_ms
local state = client_key(client)

local function reply(drained, wait_ms, probe, leases)
  local generation = tonumber(redis.call('HGET', state, 'generation') or '0')
  return {now, generation, drained and 1 or 0, wait_ms, probe, leases, 0}
end

local function repeated_claim(packed)
  local before, leases = cmsgpack.unpack(packed), {}
  for i, id in ipairs(before.ids) do
    local r = load_front(id)
    if r and r[FENCE] == before.fences[i] and is_leased(r, now) then
      leases[#leases + 1] = r.packed
      leases[#leases + 1] = before.doubts[i] and 1 or 0
      leases[#leases + 1] = id
    end
  end
  return reply(before.drained, 0, before.probe, leases)
end

-- The rate of the budget, limited by the slow start while that lasts; and whether it lasts.
local function slow_start_rate(recovered_at)
  local passed = now - recovered_at
  if passed < 0 or passed >= SLOW_START_MS then return rate, false end
  return math.min(rate or math.huge, SLOW_START_RATE * 2 ^ (passed / SLOW_START_DOUBLES_MS)), true
end

-- How many requests the budget allows now; or 0, and how long until it allows enough to be worth a claim. The bucket
-- holds a tenth of a second's worth, so unused budget never adds up to a burst.
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

-- The grant to probe with, due or not: another one each time, because client and endpoint may be well and only one
-- grant be refused.
local function probe_candidate(endpoint_probe)
  local first = redis.call('ZRANGEBYSCORE', schedule_key(client), '-inf', '(' .. FOREVER, 'LIMIT', 0,
    PROBE_CANDIDATES)
  local turn = endpoint_probe and redis.call('HINCRBY', endpoint_key(token_url), 'probes', 1)
    or redis.call('HINCRBY', state, 'probes', 1)
  return {first[(turn - 1) % math.max(#first, 1) + 1]}
end

-- How long a grant can wait: until its access token ends. A grant whose token has ended has nothing more to lose: it
-- waits for grants whose tokens end during the slow start, and for no others.
local function can_wait_ms(id)
  local r = try(load_front, id)
  if not r then return 0 end -- `load_free` takes it out of the schedule, or sets it aside
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

-- Keep an unreadable record from coming up at each claim; it is found again once it was put right.
local function set_aside(id)
  redis.call('ZADD', schedule_key(client), digits(now + SET_ASIDE_MS), id)
  note_unreadable(id)
end

-- The fronts of the grants that are free. The others are moved to when they may be.
local function load_free(ids)
  local free = {}
  for _, id in ipairs(ids) do
    local r = try(load_front, id)
    if r == nil then
      set_aside(id)
    elseif not r then
      redis.call('ZREM', schedule_key(client), id)
    elseif is_leased(r, now) then
      schedule(id, r, r[LEASE_UNTIL])
    elseif claimable_from(r) > now then
      schedule(id, r, math.min(claimable_from(r), now + LOOK_AGAIN_MS))
    else
      free[#free + 1] = r
    end
  end
  return free
end

local function lease_all(ids)
  local leases, claimed = {}, {ids = {}, fences = {}, doubts = {}}
  local free = load_free(ids)
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
if recovering or number ~= recovered_epoch then return {now, 0, 1, 0, 0, {}, 1} end

local before = redis.call('GET', claim_key(claim_id))
if before then return repeated_claim(before) end
redis.call('HSET', state, 'claimed_at', digits(now), 'endpoint', token_url)
if runner then redis.call('ZADD', runners_key(client), digits(until_ms), runner) end

-- Of a rejected client, or at an unavailable endpoint, one grant at a time finds out whether it is over.
local admitted, client_probe, endpoint_probe, recovered_at = admission(client, token_url, now)
if not admitted then return reply(true, 0, 0, {}) end
local is_probe = client_probe or endpoint_probe
local probe = (client_probe and 1 or 0) + (endpoint_probe and 2 or 0)
if is_probe then limit = 1 end

local slow_start
rate, slow_start = slow_start_rate(recovered_at)
-- Sorting is expensive, and needless once the rate sends all sorted grants within two seconds.
local sorts = slow_start and not is_probe and rate < URGENT_AMONG / 2
local allowed, wait_ms = budget()
if allowed == 0 then return reply(false, wait_ms, probe, {}) end

local ids = is_probe and probe_candidate(endpoint_probe) or sorts and most_urgent(allowed) or first_due(allowed)
local leases, claimed = lease_all(ids)
spend(#claimed.ids)
claimed.drained, claimed.probe = is_probe or #ids < allowed, probe
if #claimed.ids > 0 then
  if client_probe then redis.call('HSET', state, 'probe_at', digits(until_ms)) end
  if endpoint_probe then redis.call('HSET', endpoint_key(token_url), 'probe_at', digits(until_ms)) end
  redis.call('SET', claim_key(claim_id), cmsgpack.pack(claimed), 'PX', lease_ms)
end
return reply(claimed.drained, 0, probe, leases)
