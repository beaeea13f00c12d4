-- Before every script: the clock, the keys, and the packed record.
-- The positions of the record's fields (CLIENT, STATUS, ...) and the width of each client's counters come
-- from record.py, put in front of this file when it is loaded.
--
-- Every key begins with KEYS[1], the deployment's prefix with its hash tag in braces, so that all of them are
-- in one hash slot and a script may reach any of them.

local P = KEYS[1]
local FOREVER = '+inf'
local NO_END = 2^53 - 1

local function now_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

local function grant_key(id) return P .. 'grant:' .. id end
local function schedule_key(client) return P .. 'schedule:' .. client end
local function client_key(client) return P .. 'client:' .. client end

-- Lua's own conversion would write large numbers as 1.7e+12.
local function digits(number) return string.format('%.0f', number) end

local function load(id)
  local packed = redis.call('GET', grant_key(id))
  return packed and cmsgpack.unpack(packed)
end

local function save(id, r)
  redis.call('SET', grant_key(id), cmsgpack.pack(r))
end

local function schedule(id, r, due)
  if r[STATUS] == 'failed' or r[STATUS] == 'paused' or due == '' then due = FOREVER end
  redis.call('ZADD', schedule_key(r[CLIENT]), due, id)
end

-- Grants that a person may have to see to, by when something ends for them; '' takes one off the list.
local function mark(id, ends_at)
  if ends_at == '' then
    redis.call('ZREM', P .. 'attention', id)
  else
    redis.call('ZADD', P .. 'attention', ends_at, id)
  end
end

local function count(client, counter, by)
  redis.call('HINCRBY', client_key(client), counter, by)
end

local function set_status(r, status)
  if r[STATUS] ~= status then
    count(r[CLIENT], 'grants:' .. r[STATUS], -1)
    count(r[CLIENT], 'grants:' .. status, 1)
    r[STATUS] = status
  end
end

local function tell(event, keep)
  if event ~= '' then
    redis.call('XADD', P .. 'events', 'MAXLEN', '~', keep, '*', 'event', event)
  end
end

local function leased(r, now)
  return r[LEASE_UNTIL] > now
end

local function release(r)
  r[LEASE_OWNER] = false
  r[LEASE_UNTIL] = 0
end

-- Leases are numbered by a counter that never falls behind the clock: a Redis that forgot its last writes still
-- gives out numbers that nobody has seen.
local function next_fence()
  local last = tonumber(redis.call('GET', P .. 'fence') or '0')
  local fence = math.max(last + 1, now_us())
  redis.call('SET', P .. 'fence', digits(fence))
  return fence
end

-- The lease and its intent in one write: from here on the reply to a refresh may exist.
-- Returns whether an earlier intent was left without an outcome.
local function take_lease(id, r, owner, until_ms)
  local in_doubt = r[INTENT]
  r[LEASE_OWNER] = owner
  r[LEASE_UNTIL] = until_ms
  r[FENCE] = next_fence()
  r[INTENT] = true
  save(id, r)
  schedule(id, r, digits(until_ms))
  return in_doubt
end
