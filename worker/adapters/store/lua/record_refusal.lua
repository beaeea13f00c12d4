-- Find out whom a refusal means, the grant or its client, by comparison with the client's other grants; pause the client
-- where it means the client.
--
-- A refusal is the grant's own where another grant got tokens after it was refused first, however many such grants there
-- are. Until then others are tried, one at a time, the healthiest first (claim.lua). When enough of them are refused too,
-- and none is accepted, the client is paused and probed. Those that were due together prove nothing by their number: many
-- may have died at once.
--
-- Returns {verdict, 1 if claims stop}. The verdicts: grant; changed (the client is paused); unchanged (it is paused
-- already, or was accepted since the request left); undecided; alone (there is no other grant to compare with).
-- Repeated with the same event id, it changes nothing more.

-- By what the refusal's words mean: how many grants must be refused, how many of them while they were compared, how many
-- refusals there must be in all, from how many on the others are tried one at a time, and whether one grant alone says
-- nothing of the client.
local NEEDED = {
  client = {grants = 1, compared = 0, refusals = 1, wary = 1},
  either = {grants = 10, compared = 3, refusals = 1, wary = 1},
  nothing = {grants = 10, compared = 3, refusals = 5, wary = 1, compares = true},
  grant = {grants = 10, compared = 3, refusals = 3, wary = 3, compares = true},
}
local REFUSALS_KEPT = 100
local MEMORY_MS = 3600000

local now = now_ms()
local state = client_key(client)
local needed = NEEDED[words]
local known = {}
known.state, known.changed_by, known.accepted_at, known.refreshed_at, known.believed_at, known.wary_at,
  known.tried_all, known.compared = unpack(redis.call('HMGET', state, 'state', 'changed_by', 'accepted_at',
    'refreshed_at', 'believed_at', 'wary_at', 'tried_all', 'compared'))
local refreshed_at = tonumber(known.refreshed_at or '0')

-- The verdict about a refusal while the client is paused. A probe that is rejected in the grant's own words shows that
-- the client is well, unless it was paused because every grant is.
local function verdict_while_paused()
  if words == 'grant' and (not known.believed_at or tonumber(known.believed_at) <= now) then return {'grant', 0} end
  if is_probe then put_off_next_probe(state, event_id, now, first_probe_ms, longest_probe_ms, 1) end
  return {'unchanged', 1}
end

-- The last refusals, one entry a grant, the latest last: {grant, when it was refused first, when last, by which event,
-- how often since another grant was refreshed}.
local function refusals_so_far()
  local found = {}
  for _, each in ipairs(unpack_list(redis.call('HGET', state, 'refusals'))) do
    if each[3] > now - MEMORY_MS then found[#found + 1] = each end
  end
  return found
end

-- A refusal before the grant's last refresh was answered by that refresh.
local function remember(refusals)
  local r, at = try(load, grant), now_us() / 1000 -- exact enough to tell what happened within one millisecond
  local mine = {grant, at, 0, '', 0}
  for place, each in ipairs(refusals) do
    if each[1] == grant then
      table.remove(refusals, place)
      if each[2] >= (r and r[ISSUED_AT] or 0) then mine = each end
      break
    end
  end
  if mine[4] ~= event_id then
    if is_comparison and known.wary_at then known.compared = redis.call('HINCRBY', state, 'compared', 1) end
    local before = mine[3] > refreshed_at and mine[5] or 0
    mine[3], mine[4], mine[5] = at, event_id, before + 1
  end
  refusals[#refusals + 1] = mine
  if #refusals > REFUSALS_KEPT then table.remove(refusals, 1) end
  redis.call('HSET', state, 'refusals', cmsgpack.pack(refusals))
  return mine
end

-- How many grants were refused, and how often in all, since another one was refreshed.
local function since_refreshed(refusals)
  local grants, in_all = 0, 0
  for _, each in ipairs(refusals) do
    if each[3] > refreshed_at then grants, in_all = grants + 1, in_all + each[5] end
  end
  return grants, in_all
end

local function at_work()
  local counts = redis.call('HMGET', state, 'grants:active', 'grants:failing')
  return tonumber(counts[1] or '0') + tonumber(counts[2] or '0')
end

local function pause()
  redis.call('HSET', state, 'state', 'rejected', 'rejected_at', digits(now), 'reason', reason,
    'probe_delay', digits(first_probe_ms), 'probe_at', digits(now + first_probe_ms), 'changed_by', event_id)
  redis.call('HDEL', state, 'wary_at', 'tried_all', 'compared')
  if words == 'grant' then redis.call('HSET', state, 'believed_at', digits(now + believe_ms)) end
  emit(event, events_kept)
  return {'changed', 1}
end

local function watch_warily()
  if known.wary_at then return {'undecided', 0} end
  redis.call('HSET', state, 'wary_at', digits(now))
  return {'undecided', 1}
end

if known.changed_by == event_id then return {'changed', 1} end
if known.state == 'rejected' then return verdict_while_paused() end
-- The request left before the client was accepted again: its refusal is out of date.
if sent_at <= tonumber(known.accepted_at or '0') then return {'unchanged', 1} end

local refusals = refusals_so_far()
local mine = remember(refusals)
if refreshed_at > mine[2] then return {'grant', 0} end

local others = at_work() - 1
if needed.compares and others < 1 then return {'alone', 0} end
local grants, in_all = since_refreshed(refusals)
if words == 'grant' and grants < needed.wary then return {'grant', 0} end
local compared = tonumber(known.compared or '0')
local are_enough = known.tried_all
  or grants >= math.min(needed.grants, others + 1) and compared >= math.min(needed.compared, others)
if are_enough and in_all >= needed.refusals then return pause() end
return watch_warily()
