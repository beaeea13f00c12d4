-- Before every script: the clock, the keys, and the packed record.
-- The positions of the record's fields (CLIENT, STATUS, ...) and the width of each client's counters come
-- from record.py, put in front of this file when it is loaded.
--
-- Every key begins with KEYS[1], the deployment's prefix with its hash tag in braces, so that all of them are
-- in one hash slot and a script may reach any of them.

local P = KEYS[1]
local ARGV = cmsgpack.unpack(ARGV[1])
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
local function deleted_key(id) return P .. 'deleted:' .. id end
local function schedule_key(client) return P .. 'schedule:' .. client end
local function client_key(client) return P .. 'client:' .. client end
local function endpoint_key(url) return P .. 'endpoint:' .. url end

-- Lua's own conversion would write large numbers as 1.7e+12.
local function digits(number) return string.format('%.0f', number) end

-- What a record begins with: MessagePack's head of an array of 16 fields and more.
local HEAD, HEAD_BYTES, MOST_FIELDS = 0xdc, 3, 255

local function read(id)
  local packed = redis.call('GET', grant_key(id))
  if packed and packed:byte() ~= HEAD then error('no record: ' .. id) end
  return packed
end

-- So many of its fields, one by one into a table of their number; and where the next begins. A table that `cmsgpack`
-- makes of the whole array is enlarged six times until they fit.
local function fields(packed, number)
  local r = {cmsgpack.unpack_limit(packed, number, HEAD_BYTES)}
  return r, table.remove(r, 1)
end

local function load(id)
  local packed = read(id)
  return packed and fields(packed, MOST_FIELDS)
end

local function save(id, r)
  redis.call('SET', grant_key(id), cmsgpack.pack(r))
end

-- A record's front is what leasing needs of it. The rest stays packed: a claim reads hundreds of records, and in a
-- store of a million each piece of memory that one takes up is in no cache.
local function load_front(id)
  local packed = read(id)
  if not packed then return false end
  local front, rest_at = fields(packed, FRONT)
  front.id, front.packed, front.rest_at = id, packed, rest_at
  return front
end

-- What `load` or `load_front` reads; nil where what is stored is no record.
local function try(loads, id)
  local reads, r = pcall(loads, id)
  if reads and (not r or type(r[LEASE_UNTIL]) == 'number' and type(r[CLIENT]) == 'string') then return r end
end

local function pack_front(front)
  local packed = front.packed
  return packed:sub(1, HEAD_BYTES) .. cmsgpack.pack(unpack(front, 1, FRONT)) .. packed:sub(front.rest_at + 1)
end

local function due_at(r, due)
  if r[STATUS] == 'failed' or r[STATUS] == 'paused' or due == '' then return FOREVER end
  return due
end

local function schedule(id, r, due)
  redis.call('ZADD', schedule_key(r[CLIENT]), due_at(r, due), id)
end

-- Grants that a person may have to see to, by when something ends for them; '' takes one off the list.
local function mark(id, ends_at)
  if ends_at == '' then
    redis.call('ZREM', P .. 'attention', id)
  else
    redis.call('ZADD', P .. 'attention', ends_at, id)
  end
end

-- Grants whose records could not be read. One that was put right since may be among them: whoever looks finds out.
local function note_unreadable(id) redis.call('SADD', P .. 'unreadable', id) end
local function forget_unreadable(id) redis.call('SREM', P .. 'unreadable', id) end

local function count(client, counter, by)
  redis.call('HINCRBY', client_key(client), counter, by)
end

-- Take what is no record out of the store. Its status nobody can say: most are active.
local function drop_unreadable(id)
  for _, client in ipairs(redis.call('SMEMBERS', P .. 'clients')) do
    if redis.call('ZREM', schedule_key(client), id) == 1 then count(client, 'grants:active', -1) end
  end
  redis.call('DEL', grant_key(id))
  mark(id, '')
  forget_unreadable(id)
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
-- gives out numbers that nobody has seen. Returns the first of so many in a row.
local function next_fences(number)
  local last = tonumber(redis.call('GET', P .. 'fence') or '0')
  local first = math.max(last + 1, now_us())
  redis.call('SET', P .. 'fence', digits(first + number - 1))
  return first
end

-- The holder of a lease that ended without an outcome may be frozen, or cut off from this store, with the answer in its
-- hands. Unless it is known to be gone (it left, or its journal was adopted) it is waited for, as far as the access
-- token's life allows: presenting what it may have used up could cost the grant.
local PATIENCE_MS = 900000

local function claimable_from(r)
  local holder = r[INTENT] and r[LEASE_OWNER]
  if not holder or not redis.call('ZSCORE', P .. 'processes', holder) then return r[LEASE_UNTIL] end
  local life_left = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] - r[LEASE_UNTIL] or NO_END
  return r[LEASE_UNTIL] + math.min(PATIENCE_MS, math.max(math.floor(life_left / 2), 0))
end

-- Lease some of one client's grants, hundreds at most, by their fronts. A lease and its intent are one write: from here
-- on the reply to a refresh may exist. Few commands write all of them: what one takes up until it is in the log
-- is memory too.
-- Adds to each whether an earlier intent was left without an outcome; `packed` is then the record as it is stored.
local function take_leases(fronts, owner, until_ms)
  local fence, ends_at = next_fences(#fronts), digits(until_ms)
  local records, dues = {}, {}
  for place, r in ipairs(fronts) do
    r.in_doubt = r[INTENT]
    r[LEASE_OWNER] = owner
    r[LEASE_UNTIL] = until_ms
    r[FENCE] = fence + place - 1
    r[INTENT] = true
    r.packed = pack_front(r)
    records[2 * place - 1], records[2 * place] = grant_key(r.id), r.packed
    dues[2 * place - 1], dues[2 * place] = due_at(r, ends_at), r.id
  end
  redis.call('MSET', unpack(records))
  redis.call('ZADD', schedule_key(fronts[1][CLIENT]), unpack(dues))
end

-- Note that a client's token endpoint gave a readable answer to a request that left then: failures before it are in a
-- row no more. Where the answer was tokens, their grant is no suspect of anything any more. On the path of every
-- commit, so that it is few commands.
local function heard(client, sent_at, refreshed)
  local state = client_key(client)
  local known = redis.call('HMGET', state, 'endpoint', 'suspect', 'accepted_at')
  if refreshed and known[2] == refreshed and sent_at > tonumber(known[3] or '0') then
    redis.call('HDEL', state, 'suspect')
  end
  local url = known[1]
  if not url then return end
  redis.call('ZADD', P .. 'answered', 'GT', digits(sent_at), url)
  local endpoint = endpoint_key(url)
  if refreshed and redis.call('HGET', endpoint, 'suspect') == refreshed then redis.call('HDEL', endpoint, 'suspect') end
end

-- Whether anything of a client may be claimed now, and whether that is one grant alone: as the client_probe of a rejected
-- client, as the endpoint_probe of an unavailable endpoint, or both. Then when the endpoint recovered, if it ever did.
local function gates(client, url, now)
  local of_client = redis.call('HMGET', client_key(client), 'state', 'probe_at', 'throttled_until')
  local of_endpoint = redis.call('HMGET', endpoint_key(url), 'state', 'probe_at', 'recovered_at')
  local client_probe, endpoint_probe = of_client[1] == 'rejected', of_endpoint[1] == 'unavailable'
  local passes = tonumber(of_client[3] or '0') <= now
    and (not client_probe or tonumber(of_client[2]) <= now)
    and (not endpoint_probe or tonumber(of_endpoint[2]) <= now)
  return passes, client_probe, endpoint_probe, tonumber(of_endpoint[3] or '0')
end

-- An epoch of the store ends when it restarts or fails over (another run id: writes may be lost, leases forgotten), or
-- when nobody reached it for a while (leases may have run out under answers that could not be stored). The next begins
-- recovering: no claim passes until every process that was present has given back what the store forgot, or so long that
-- whatever was in flight has ended. Each process then claims in the epoch that it has itself confirmed.

local SILENCE_MS = 3000 -- less than a lease leaves for its commit; processes heartbeat every second
local DAY_MS = 86400000
local LEAST_RECOVERY_MS = 2000 -- for a process whose registration was forgotten to come forward

local function run_id()
  return redis.call('INFO', 'server'):match('run_id:(%w+)')
end

local function all_recovered(seen_since)
  local present = redis.call('ZRANGEBYSCORE', P .. 'processes', digits(seen_since), '+inf')
  for _, owner in ipairs(present) do
    if redis.call('SISMEMBER', P .. 'recovered', owner) == 0 then return false end
  end
  return true
end

-- Awaited are those that were seen not long before anybody was last: a store that was away saw nobody.
local function begin_epoch(number, run, restarted, now, last_heartbeat_at, recovery_ms)
  local somebody = redis.call('ZCARD', P .. 'processes') > 0
  local least_ms = restarted and somebody and LEAST_RECOVERY_MS or 0
  redis.call('DEL', P .. 'recovered')
  redis.call('ZREMRANGEBYSCORE', P .. 'processes', '-inf', digits(last_heartbeat_at - DAY_MS))
  redis.call('HSET', P .. 'epoch', 'number', digits(number), 'run_id', run,
    'seen_since', digits(last_heartbeat_at - recovery_ms), 'least_until', digits(now + least_ms),
    'ends_at', digits(now + recovery_ms))
end

-- The epoch's number, and whether it is recovering still.
local function epoch(now, recovery_ms)
  local key, run = P .. 'epoch', run_id()
  local known = redis.call('HMGET', key, 'number', 'run_id', 'heartbeat_at', 'ends_at')
  local number, ends_at = tonumber(known[1] or '0'), tonumber(known[4] or '0')
  local restarted, last_heartbeat_at = known[2] ~= run, tonumber(known[3] or now)
  if restarted or now - last_heartbeat_at > SILENCE_MS then
    number = math.max(number + 1, now) -- never one that a store has forgotten
    ends_at = now + recovery_ms
    begin_epoch(number, run, restarted, now, last_heartbeat_at, recovery_ms)
  end
  redis.call('HSET', key, 'heartbeat_at', digits(now))
  if ends_at == 0 then return number, false end
  local waits = redis.call('HMGET', key, 'least_until', 'seen_since')
  if now < ends_at and (now < tonumber(waits[1]) or not all_recovered(tonumber(waits[2]))) then
    return number, true
  end
  redis.call('HDEL', key, 'ends_at')
  return number, false
end
