-- Count what one client has due and reserve runners for it.
--
-- A runner is a refresh task, queued or at work; its place ends by itself, so that a lost task costs a delay and
-- two sweeps at once start no more than one would.
--
-- ARGV: client, grants a runner, most runners, place ms, candidate runner ids...
-- Returns {due, how many of the candidates to start}.

local client, share, most, place_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()
local state, runners = client_key(client), P .. 'runners:' .. client

local due = redis.call('ZCOUNT', schedule_key(client), '-inf', digits(now))
local wanted = math.min(math.ceil(due / share), most)
local passes, probe, endpoint_probe = gates(client, redis.call('HGET', state, 'endpoint') or '', now)
if not passes then
  wanted = 0
elseif probe or endpoint_probe then
  wanted = 1
end
if wanted == 0 then return {due, 0} end

redis.call('ZREMRANGEBYSCORE', runners, '-inf', digits(now))
-- Candidates that have a place already are those of this same call, repeated because its reply was lost.
local others = redis.call('ZCARD', runners)
for i = 1, most do
  if redis.call('ZSCORE', runners, ARGV[4 + i]) then others = others - 1 end
end
local start = math.max(wanted - others, 0)
for i = 1, start do
  redis.call('ZADD', runners, digits(now + place_ms), ARGV[4 + i])
end
return {due, start}
