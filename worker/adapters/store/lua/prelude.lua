-- What every script begins with: the keys, the clock, the packed record, and the rules that scripts share.
--
-- Loading a script (scripts.py) puts together: the positions of the record's fields (CLIENT, STATUS, ...; from
-- record.py), this file, the lifecycle's tables that the script uses (PAUSED, ...; from transitions.py), the names of
-- the script's arguments (from signatures.py), and the script itself.
--
-- KEYS
--
-- Every key begins with KEYS[1], the deployment's prefix with its hash tag in braces. So all keys share one hash slot,
-- and a script may reach any of them. Instants are Unix ms.
--
-- grant:ID         string  One grant: the packed record of record.py.
--                          Written by imports, leases, commits, outcomes and operators. Lives until delete_grant.
-- deleted:ID       string  The record of a grant that was deleted under a lease.
--                          Written by delete_grant. Expires when that lease ends.
-- schedule:CLIENT  zset    Every grant of a client, by when it is due; +inf where it is failed, paused or never due.
--                          Written with each record. A member lives as long as its grant.
-- client:CLIENT    hash    What is known of a client. Lives for ever.
--                          Fields of claims: endpoint (its token URL), claimed_at, budget (requests it may send),
--                          budget_at.
--                          Fields of rejections: state (accepted, rejected), reason, rejected_at, accepted_at,
--                          changed_by (event id), suspect (the grant whose refusal paused it), generation (how often
--                          it was accepted again), probe_at, probe_delay, probed_by (event id), probes (how many).
--                          Fields of throttling: throttled_until, throttled_at, throttle_delay, throttled_by (event
--                          id).
--                          Fields that count: refreshed, late (refreshed after its token had ended), grants:active,
--                          grants:failing, grants:failed, grants:paused.
-- endpoint:URL     hash    What is known of a token endpoint. Lives for ever.
--                          Fields of outages: state (available, unavailable), reason, since, recovered_at,
--                          recovered_by (event id), suspect (the one grant whose failures opened the breaker),
--                          probe_at, probe_delay, probed_by (event id), probes (how many).
--                          Fields of failures: failures (the last ones, packed: event id, grant, when sent).
-- answered         zset    Token URLs, by when the last request left that was answered readably.
--                          Written by commits and outcomes. Lives for ever.
-- claim:ID         string  What a claim leased, packed, so that a repeated one gets the same leases.
--                          Written by claim and lease. Expires with the leases.
-- runners:CLIENT   zset    The places of refresh tasks, queued or at work, by when each place ends.
--                          Written by reserve_runners, claim and release_runner. Ended places go at the next reserve.
-- fence            string  The last fence that was given out. Written by leases. Lives for ever.
-- attention        zset    Grants that a person may have to see to, by when something ends for them.
--                          Written by imports, commits, outcomes and operators. A member lives until that is resolved.
-- unreadable       set     Grants whose records could not be read; some may have been put right since.
--                          Written by claim and note_unreadable. A member lives until its grant is imported or deleted.
-- clients          set     Every client that ever had a grant here. Written by import_grant. Lives for ever.
-- events           stream  The events of this deployment. Written with the changes they tell of. Cut to about as many
--                          as the settings say.
-- epoch            hash    The store's epoch (see the end of this file). Written by each script that reads it. Lives
--                          for ever.
--                          Fields: number, run_id (of the server), heartbeat_at (the last one of any process),
--                          seen_since (the recovery waits for processes seen since then), least_until and ends_at
--                          (of the recovery).
-- processes        zset    Processes, by their last heartbeat. Written by heartbeat and leave. A member lives until it
--                          leaves, or until the first epoch that begins a day after its last heartbeat.
-- recovered        set     Processes that finished recovery in this epoch. Written by finish_recovery and leave.
--                          Emptied when an epoch begins.
-- troubles         hash    Why each process claims nothing; its fields are the processes. Written by heartbeat
--                          and leave. A field lives until its process says otherwise, or leaves.
-- barrier          string  Empty: the write that WAIT waits for. Written by scripts.py. Lives for ever.

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
local function deleted_key(id) return P .. 'deleted:' .. id end
local function schedule_key(client) return P .. 'schedule:' .. client end
local function client_key(client) return P .. 'client:' .. client end
local function endpoint_key(url) return P .. 'endpoint:' .. url end
local function claim_key(claim_id) return P .. 'claim:' .. claim_id end
local function runners_key(client) return P .. 'runners:' .. client end

-- Lua's own conversion would write large numbers as 1.7e+12.
local function digits(number) return string.format('%.0f', number) end

-- A record begins with MessagePack's head of an array of 16 fields and more.
local HEAD, HEAD_BYTES, MOST_FIELDS = 0xdc, 3, 255

local function read(id)
  local packed = redis.call('GET', grant_key(id))
  if packed and packed:byte() ~= HEAD then error('no record: ' .. id) end
  return packed
end

-- The first `number` fields of a record, and the offset of the rest. They are unpacked one by one: `cmsgpack` would
-- grow the table of a whole array six times until the fields fit.
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

-- The front of a record: the fields that leasing needs. The rest stays packed: a claim reads hundreds of records, and
-- in a store of a million grants none of their memory is in a cache.
local function load_front(id)
  local packed = read(id)
  if not packed then return false end
  local front, rest_at = fields(packed, FRONT)
  front.id, front.packed, front.rest_at = id, packed, rest_at
  return front
end

-- What `loads` (`load` or `load_front`) reads: false where there is no such grant, nil where it is no record.
local function try(loads, id)
  local reads, r = pcall(loads, id)
  if reads and (not r or type(r[LEASE_UNTIL]) == 'number' and type(r[CLIENT]) == 'string') then return r end
end

local function pack_front(front)
  local packed = front.packed
  return packed:sub(1, HEAD_BYTES) .. cmsgpack.pack(unpack(front, 1, FRONT)) .. packed:sub(front.rest_at + 1)
end

local function is_out_of_work(r)
  return r[STATUS] == 'failed' or r[STATUS] == 'paused'
end

-- `due_at` is nil for never.
local function schedule(id, r, due_at)
  local score = (is_out_of_work(r) or not due_at) and FOREVER or digits(due_at)
  redis.call('ZADD', schedule_key(r[CLIENT]), score, id)
end

-- Put a grant on the list of those that may need a person, by when something ends for it; nil takes it off.
local function note_attention(id, ends_at)
  if ends_at then
    redis.call('ZADD', P .. 'attention', digits(ends_at), id)
  else
    redis.call('ZREM', P .. 'attention', id)
  end
end

local function note_unreadable(id) redis.call('SADD', P .. 'unreadable', id) end
local function forget_unreadable(id) redis.call('SREM', P .. 'unreadable', id) end

local function count(client, counter, by)
  redis.call('HINCRBY', client_key(client), counter, by)
end

-- Delete a grant whose record cannot be read. Its status is unknown: it is counted as active, as most are.
local function drop_unreadable(id)
  for _, client in ipairs(redis.call('SMEMBERS', P .. 'clients')) do
    if redis.call('ZREM', schedule_key(client), id) == 1 then count(client, 'grants:active', -1) end
  end
  redis.call('DEL', grant_key(id))
  note_attention(id, nil)
  forget_unreadable(id)
end

local function set_status(r, status)
  if r[STATUS] ~= status then
    count(r[CLIENT], 'grants:' .. r[STATUS], -1)
    count(r[CLIENT], 'grants:' .. status, 1)
    r[STATUS] = status
  end
end

-- `event` is nil where a change has none.
local function emit(event, events_kept)
  if event then
    redis.call('XADD', P .. 'events', 'MAXLEN', '~', digits(events_kept), '*', 'event', event)
  end
end

local function is_leased(r, now)
  return r[LEASE_UNTIL] > now
end

local function release(r)
  r[LEASE_OWNER] = false
  r[LEASE_UNTIL] = 0
end

-- Give out `number` fences in a row; returns the first. The counter never falls behind the clock, so a Redis that
-- forgot its last writes still gives out fences that nobody has seen.
local function next_fences(number)
  local last = tonumber(redis.call('GET', P .. 'fence') or '0')
  local first = math.max(last + 1, now_us())
  redis.call('SET', P .. 'fence', digits(first + number - 1))
  return first
end

-- A holder whose lease ended without an outcome may be frozen, or cut off from this store, and hold the answer. To
-- present the refresh token again could cost the grant. So such a holder is waited for, within the access token's life,
-- unless it is known to be gone: it left, or its journal was taken over.
local PATIENCE_MS = 900000

local function claimable_from(r)
  local holder = r[INTENT] and r[LEASE_OWNER]
  if not holder or not redis.call('ZSCORE', P .. 'processes', holder) then return r[LEASE_UNTIL] end
  local life_left = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] - r[LEASE_UNTIL] or NO_END
  return r[LEASE_UNTIL] + math.min(PATIENCE_MS, math.max(math.floor(life_left / 2), 0))
end

-- Lease some of one client's grants, hundreds at most, by their fronts. Lease and intent are one write: from here on
-- the reply to a refresh may exist. Two commands write all of them, to save memory until they are in the log. Sets in
-- each front `in_doubt`, whether an earlier intent was left without an outcome, and `packed`, the new record.
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
    dues[2 * place - 1], dues[2 * place] = is_out_of_work(r) and FOREVER or ends_at, r.id
  end
  redis.call('MSET', unpack(records))
  redis.call('ZADD', schedule_key(fronts[1][CLIENT]), unpack(dues))
end

-- Note that a client's token endpoint answered readably a request that left at `sent_at`: failures before it are no
-- longer in a row. `refreshed` is the grant that got tokens, if one did: it is cleared of suspicion.
-- On the path of every commit, so it uses few commands.
local function note_answer(client, sent_at, refreshed)
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

-- What of a client may be claimed now. Returns whether anything may; whether that is one grant alone, as a probe of a
-- rejected client, as a probe of an unavailable endpoint, or as both; and when the endpoint recovered (0 for never).
local function admission(client, url, now)
  local of_client = redis.call('HMGET', client_key(client), 'state', 'probe_at', 'throttled_until')
  local of_endpoint = redis.call('HMGET', endpoint_key(url), 'state', 'probe_at', 'recovered_at')
  local client_probe, endpoint_probe = of_client[1] == 'rejected', of_endpoint[1] == 'unavailable'
  local admitted = tonumber(of_client[3] or '0') <= now
    and (not client_probe or tonumber(of_client[2] or '0') <= now)
    and (not endpoint_probe or tonumber(of_endpoint[2] or '0') <= now)
  return admitted, client_probe, endpoint_probe, tonumber(of_endpoint[3] or '0')
end

-- An epoch of the store ends when the server restarts or fails over (its run id changes: writes may be lost, leases
-- forgotten), or when no process reached it for a while (leases may have run out under answers that could not be
-- stored). The next epoch begins with a recovery. No claim passes until every process that was present has given back
-- what the store forgot, or until every request in flight must have ended. Each process then claims in an epoch only
-- once it has finished that epoch's recovery itself.

local SILENCE_MS = 3000 -- less than a lease leaves for its commit; processes send a heartbeat every second
local DAY_MS = 86400000
local LEAST_RECOVERY_MS = 2000 -- time for a process whose registration was forgotten to come forward

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

-- The recovery waits for processes seen shortly before the last heartbeat of any: a store that was away saw nobody.
local function begin_epoch(number, run, restarted, now, last_heartbeat_at, recovery_ms)
  local somebody = redis.call('ZCARD', P .. 'processes') > 0
  local least_ms = restarted and somebody and LEAST_RECOVERY_MS or 0
  redis.call('DEL', P .. 'recovered')
  redis.call('ZREMRANGEBYSCORE', P .. 'processes', '-inf', digits(last_heartbeat_at - DAY_MS))
  redis.call('HSET', P .. 'epoch', 'number', digits(number), 'run_id', run,
    'seen_since', digits(last_heartbeat_at - recovery_ms), 'least_until', digits(now + least_ms),
    'ends_at', digits(now + recovery_ms))
end

-- The epoch's number, and whether it is still recovering.
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
