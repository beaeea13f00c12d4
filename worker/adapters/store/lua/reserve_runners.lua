-- Count what one client has due and reserve runners for it.
--
-- A runner is a refresh task, queued or at work. Its place ends by itself, so a lost task costs a delay, and two sweeps
-- at once start no more runners than one would.
--
-- Returns {due, how many of the candidates to start}.

local now = now_ms()
local runners = runners_key(client)

local due = redis.call('ZCOUNT', schedule_key(client), '-inf', digits(now))
local wanted = math.min(math.ceil(due / share), #candidates)
local token_url = redis.call('HGET', client_key(client), 'endpoint') or ''
local admitted, client_probe, endpoint_probe = admission(client, token_url, now)
if not admitted then
  wanted = 0
elseif client_probe or endpoint_probe then
  wanted = 1
end
if wanted == 0 then return {due, 0} end

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
return {due, start}
