-- Read what a scrape tells of some clients. It reads a few of a client's grants, however many there are.
--
-- Returns for each client {state, endpoint, the endpoint's state, refreshed, late, [grants by status], [its counters], due,
-- when its first grant is due, when the first access token ends}; an instant is 0 for never. False for a
-- client of which something cannot be read.

local FIELDS = {'state', 'endpoint', 'refreshed', 'late'}
local STATUSES = {'active', 'failing', 'failed', 'paused'}
for place, status in ipairs(STATUSES) do FIELDS[4 + place] = 'grants:' .. status end

-- When the first access token ends of those grants that are due first. They need not end in the order in which they are
-- due, but nearly do.
local function soonest_end(first)
  local soonest = 0
  for place = 1, #first, 2 do
    local r = first[place + 1] ~= 'inf' and try(load_front, first[place])
    local at = r and r[ACCESS_EXPIRES_AT]
    if at and (soonest == 0 or at < soonest) then soonest = at end
  end
  return soonest
end

local function survey(client, token_url)
  local known = redis.call('HMGET', client_key(client), unpack(FIELDS))
  local first = redis.call('ZRANGE', schedule_key(client), 0, looked_at - 1, 'WITHSCORES')
  local is_due_ever = first[2] and first[2] ~= 'inf'
  local endpoint = known[2] or token_url -- nothing was claimed yet
  return {known[1] or 'accepted', endpoint,
    endpoint ~= '' and redis.call('HGET', endpoint_key(endpoint), 'state') or 'available',
    known[3] or 0, known[4] or 0, {known[5] or 0, known[6] or 0, known[7] or 0, known[8] or 0},
    redis.call('HGETALL', counters_key(client)),
    redis.call('ZCOUNT', schedule_key(client), '-inf', digits(now)),
    is_due_ever and first[2] or 0, soonest_end(first)}
end

local surveyed = {}
for place, each in ipairs(clients) do
  local reads, found = pcall(survey, each[1], each[2])
  if not reads and not own_error(found) then error(found, 0) end
  surveyed[place] = reads and found
end
return surveyed
