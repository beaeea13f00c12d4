-- Claim due grants of some clients, a chunk of each: lease, intent, and the due time moved to the end of the lease. So
-- the grants of a dead worker come back by themselves. Clients share a call because half of a small claim's cost is
-- that of any script.
--
-- Returns {now, recovering, answers}. For each ask, in their order, an answer is {generation, drained, wait ms, probe (the
-- sum of 1 of the client, 2 of the endpoint, 4 a grant to compare others with, due or not), {record, in doubt, id, ...},
-- {when each came due; 0 where it was not}}; or a text, the error of a client whose state cannot be read.
-- Repeated with the same claim id (a reply was lost), it returns the same leases and takes none.

local PROBE_CANDIDATES, PROBE_AMONG = 5, 50
local SET_ASIDE_MS = 300000 -- for a record that cannot be read
local LOOK_AGAIN_MS = 5000 -- at a holder that is waited for: it may be known to be gone by then

-- Slow start: a recovered endpoint gets its backlog at a growing rate, the most urgent grants first.
local SLOW_START_RATE, SLOW_START_DOUBLES_MS, SLOW_START_MS = 10, 5000, 60000
local URGENT_AMONG = 1000

local SINGLE_LOOK_MS = 100 -- until a claim looks again whether the one grant that is being tried has its outcome
local HEALTHIEST_AMONG = 200
local AT_RISK_AMONG = 100
local LAST_SHARE = 0.25 -- of an access token's life: what is left when another grant has to be risked

local now, in_epoch, recovering = epoch(lease_ms, at_least, recovered_epoch)
local until_ms = now + lease_ms

-- The ask that is being answered, and what is known of its client.
local client, limit, rate, token_url, registration
local state, known, is_unproven
local due_since -- by grant: when those that are due came due

local function begin(ask)
  client, limit, rate, token_url, registration = unpack(ask, 1, 5)
  state, known, due_since = client_key(client), {}, {}
  known.state, known.believed_at, known.throttled_until, known.wary_at, known.refreshed_at, known.refusals,
    known.single, known.single_until, known.proved, known.proved_at, known.unread, known.generation = unpack(
    redis.call('HMGET', state, 'state', 'believed_at', 'throttled_until', 'wary_at', 'refreshed_at', 'refusals',
      'single', 'single_until', 'proved', 'proved_at', 'unread_registration', 'generation'))
  is_unproven = known.proved ~= registration
end

local function answer(drained, wait_ms, probe, leases, is_open)
  if drained then look_at(client, now, true, is_open) end
  local dues = {}
  for place = 3, #leases, 3 do
    dues[place / 3] = due_since[leases[place]] or 0
  end
  return {tonumber(known.generation or '0'), drained and 1 or 0, wait_ms, probe, leases, dues}
end

-- What an ask was answered before; `claimed` is nil where it got nothing: it may ask again.
local function repeated(claimed)
  if not claimed then return answer(false, 0, 0, {}) end
  local leases = {}
  for i, id in ipairs(claimed.ids) do
    due_since[id] = claimed.dues and claimed.dues[i]
    local r = load_front(id)
    if r and r[FENCE] == claimed.fences[i] and is_leased(r, now) then
      leases[#leases + 1] = r.packed
      leases[#leases + 1] = claimed.doubts[i] and 1 or 0
      leases[#leases + 1] = id
    end
  end
  return answer(claimed.drained, 0, claimed.probe, leases)
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
  local found, ids = redis.call('ZRANGEBYSCORE', schedule_key(client), '-inf', digits(now), 'WITHSCORES', 'LIMIT', 0,
    number), {}
  for place = 1, #found, 2 do
    ids[#ids + 1] = found[place]
    due_since[found[place]] = tonumber(found[place + 1])
  end
  return ids
end

-- The first grants by schedule whose tokens are not promised. Those that are due never are.
local function unpromised(number)
  local first = redis.call('ZRANGEBYSCORE', schedule_key(client), '-inf', '(' .. FOREVER, 'LIMIT', 0, PROBE_AMONG)
  local found = {}
  for _, id in ipairs(first) do
    local r = try(load, id)
    if not (r and is_promised(r, now)) then found[#found + 1] = id end
    if #found == number then break end
  end
  return found
end

-- The grant to probe with, due or not: another one each time, because client and endpoint may be well and only one
-- grant be refused.
local function probe_candidate(endpoint_probe)
  local first = unpromised(PROBE_CANDIDATES)
  local turn = endpoint_probe and redis.call('HINCRBY', endpoint_key(token_url), 'probes', 1)
    or redis.call('HINCRBY', state, 'probes', 1)
  return {first[(turn - 1) % math.max(#first, 1) + 1]}
end

-- Of a client whose every grant is rejected, those whose own rejection is believed by now. One that was paused, failed
-- or resumed meanwhile has nothing to be believed.
local function take_believed(number)
  local ids = redis.call('ZRANGEBYSCORE', rejections_key(client), '-inf', digits(now), 'LIMIT', 0, number)
  if #ids > 0 then redis.call('ZREM', rejections_key(client), unpack(ids)) end
  local believed = {}
  for _, id in ipairs(ids) do
    local r = try(load, id)
    if r and r[STATUS] == 'failing' and r[REJECTED_AT] then
      if is_promised(r, now) then
        redis.call('ZADD', rejections_key(client), digits(r[PROMISED_UNTIL]), id)
      else
        believed[#believed + 1] = id
      end
    end
  end
  return believed
end

-- A grant to compare those with that were refused: the healthiest, which is due last, because it was refreshed last.
-- Returns whether one is leased or promised just now, too.
local function healthiest_untried()
  local refused, refreshed_at = {}, tonumber(known.refreshed_at or '0')
  for _, each in ipairs(unpack_list(known.refusals)) do
    if each[3] > refreshed_at then refused[each[1]] = true end
  end
  local some_wait = false
  local last = redis.call('ZREVRANGEBYSCORE', schedule_key(client), '(' .. FOREVER, '-inf', 'LIMIT', 0,
    HEALTHIEST_AMONG)
  for _, id in ipairs(last) do
    local r = not refused[id] and try(load, id)
    if r and r[STATUS] == 'active' then
      if claimable_from(r) <= now and not is_promised(r, now) then return {id}, false end
      some_wait = true
    end
  end
  return {}, some_wait
end

-- What to try while the reply to one grant of a new registration is unknown: a grant whose access token is about to end,
-- else one in doubt, which risks nothing more. A probe takes it whether it is due or not.
local function at_risk_already(id, is_probe)
  local in_doubt
  for _, due in ipairs(first_due(AT_RISK_AMONG)) do
    local r = try(load, due)
    if r and r[INTENT] then
      in_doubt = in_doubt or due
    elseif r and r[ACCESS_EXPIRES_AT]
      and r[ACCESS_EXPIRES_AT] - now <= LAST_SHARE * (r[ACCESS_EXPIRES_AT] - r[ISSUED_AT]) then
      return {due}
    end
  end
  return {in_doubt or is_probe and id or nil}
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
  local at = digits(now + SET_ASIDE_MS)
  write_schedule(client, at, at, id)
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
  local leases, claimed = {}, {ids = {}, fences = {}, doubts = {}, dues = {}}
  local free = load_free(ids)
  if #free > 0 then take_leases(free, owner, until_ms) end
  for place, r in ipairs(free) do
    leases[#leases + 1] = r.packed
    leases[#leases + 1] = r.in_doubt and 1 or 0
    leases[#leases + 1] = r.id
    claimed.ids[place], claimed.fences[place], claimed.doubts[place] = r.id, r[FENCE], r.in_doubt
    claimed.dues[place] = due_since[r.id] or 0
  end
  return leases, claimed
end

-- Which grants to try. `waits` is true where the right one is not free yet, `comparison` is 4 for a grant to compare
-- others with.
local function choose(allowed, sorts, is_single, is_probe, client_probe, endpoint_probe)
  local at_risk = is_single and is_unproven and grant_at_risk(client, known)
  if at_risk then return at_risk_already(at_risk, is_probe), false, 0 end
  -- A client whose every grant was rejected is probed with the healthiest too: the first ones due are most likely dead.
  if is_probe and client_probe and known.believed_at then
    local untried = healthiest_untried()
    if #untried > 0 then return untried, false, 0 end
  end
  if is_probe then return probe_candidate(endpoint_probe), false, 0 end
  if is_single and known.wary_at then
    local untried, waits = healthiest_untried()
    if #untried > 0 or waits then return untried, waits, #untried > 0 and 4 or 0 end
    redis.call('HSET', state, 'tried_all', 1)
  end
  return sorts and most_urgent(allowed) or first_due(allowed), false, 0
end

-- Claim for the present ask. Returns its answer, and what was claimed.
local function claim()
  redis.call('HSET', state, 'claimed_at', digits(now), 'endpoint', token_url, 'registration', registration)

  -- The first reply to this registration could not be read: no other grant is risked before somebody has looked at it.
  if is_unproven and known.unread == registration then return answer(true, 0, 0, {}) end

  -- Of a rejected client, or at an unavailable endpoint, one grant at a time finds out whether it is over.
  local admitted, client_probe, endpoint_probe, recovered_at = admission(client, token_url, now)
  local is_rejected = known.state == 'rejected'
  local believed = {}
  if client_probe and not endpoint_probe and known.believed_at and tonumber(known.throttled_until or '0') <= now then
    believed = take_believed(limit)
  end
  if not admitted and #believed == 0 then return answer(true, 0, 0, {}) end
  local is_probe = (client_probe or endpoint_probe) and #believed == 0
  local probe = (is_rejected and 1 or 0) + (endpoint_probe and 2 or 0)

  -- One at a time is tried as well of a registration that has not refreshed anything yet, and of a client while it is
  -- not known whom refusals mean.
  local is_single = is_probe or (not is_rejected and (is_unproven or known.wary_at))
  if is_single then
    if not is_probe and tonumber(known.single_until or '0') > now then return answer(false, SINGLE_LOOK_MS, 0, {}) end
    limit = math.min(limit, 1)
  end
  if not is_unproven then recovered_at = math.max(recovered_at, tonumber(known.proved_at or '0')) end

  local slow_start
  rate, slow_start = slow_start_rate(recovered_at)
  -- Sorting is expensive, and needless once the rate sends all sorted grants within two seconds.
  local sorts = slow_start and not is_probe and rate < URGENT_AMONG / 2
  local allowed, wait_ms = budget()
  if allowed == 0 then return answer(false, wait_ms, probe, {}) end

  local ids, waits, comparison = believed, false, 0
  if #believed == 0 then
    ids, waits, comparison = choose(allowed, sorts, is_single, is_probe, client_probe, endpoint_probe)
  end
  probe = probe + comparison
  if waits then return answer(false, SINGLE_LOOK_MS, probe, {}) end
  local leases, claimed = lease_all(ids)
  spend(#claimed.ids)
  claimed.drained, claimed.probe = is_probe or #ids < allowed, probe
  if #claimed.ids > 0 then
    if is_single then note_single(client, claimed.ids[1], until_ms, registration) end
    if client_probe and is_probe then redis.call('HSET', state, 'probe_at', digits(until_ms)) end
    if endpoint_probe then redis.call('HSET', endpoint_key(token_url), 'probe_at', digits(until_ms)) end
  end
  local is_open = admitted and not (client_probe or endpoint_probe)
  return answer(claimed.drained, 0, probe, leases, is_open), claimed
end

if recovering or in_epoch ~= recovered_epoch then return {now, 1, {}} end
if runner then redis.call('ZADD', P .. 'runners', digits(until_ms), runner) end

local packed = redis.call('GET', claim_key(claim_id))
local before, taken, answers, has_leases = packed and cmsgpack.unpack(packed), {}, {}, false
for place, ask in ipairs(asks) do
  local can, given, claimed = pcall(function()
    begin(ask)
    if before then return repeated(before[place]) end
    return claim()
  end)
  local problem = not can and (own_error(given) or error(given, 0))
  answers[place], taken[place] = problem or given, claimed or false
  has_leases = has_leases or (claimed and #claimed.ids > 0)
end
if has_leases then redis.call('SET', claim_key(claim_id), cmsgpack.pack(taken), 'PX', lease_ms) end
return {now, 0, answers}
