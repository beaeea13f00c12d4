-- Count what is due and reserve as many runners as it takes.
--
-- A runner is a refresh task, queued or at work. Its place ends by itself, so a lost task costs a delay, and two sweeps
-- at once start no more runners than one would.
--
-- Returns {due, how many clients have some, how many of the candidates to start, clients that could not be read}. Once
-- all candidates have enough to do, no more is counted.

local CLIENTS_COUNTED = 1000 -- what a sweep may cost the store
local LOOKED_AT_ANYWAY = 20 -- clients of any state, each sweep: whatever is wrong in the agenda ends so

local now = now_ms()
redis.call('HSET', P .. 'measures', 'swept_at', digits(now))
if redis.call('ZCARD', P .. 'agenda') < redis.call('SCARD', P .. 'clients') then rebuild_agenda(now) end
local unreadable = {}
for _, client in ipairs(redis.call('SRANDMEMBER', P .. 'clients', LOOKED_AT_ANYWAY)) do
  if try_look_at(client, now) == nil then unreadable[#unreadable + 1] = client end
end

local due, work, clients = 0, 0, 0
for _, client in ipairs(redis.call('ZRANGEBYSCORE', P .. 'agenda', '-inf', digits(now), 'LIMIT', 0, CLIENTS_COUNTED)) do
  local may_claim, is_probe = try_look_at(client, now)
  if may_claim == nil then unreadable[#unreadable + 1] = client end
  if may_claim then
    local of_client = redis.call('ZCOUNT', schedule_key(client), '-inf', digits(now))
    due, work, clients = due + of_client, work + (is_probe and 1 or of_client), clients + 1
  end
  if work >= share * #candidates then break end
end
local wanted = math.min(math.ceil(work / share), #candidates)
if wanted == 0 then return {due, clients, 0, unreadable} end

local runners = P .. 'runners'
redis.call('ZREMRANGEBYSCORE', runners, '-inf', digits(now))
-- Candidates that have a place already are those of this same call, repeated because its reply was lost.
local others = redis.call('ZCARD', runners)
for _, candidate in ipairs(candidates) do
  if redis.call('ZSCORE', runners, candidate) then others = others - 1 end
end
local start = math.max(wanted - others, 0)
for place = 1, start do
  redis.call('ZADD', runners, digits(now + place_ms), candidates[place])
end
return {due, clients, start, unreadable}
