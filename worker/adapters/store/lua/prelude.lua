-- What every script begins with: the keys, the clock, the packed record, and the rules that scripts share.
--
-- Loading a script (scripts.py) puts together: errors.lua, the positions of the record's fields (CLIENT, STATUS, ...; from
-- record.py), this file, webhooks.lua for the scripts of webhooks, the lifecycle's tables that the script uses (PAUSED, ...;
-- from transitions.py), the names of the script's arguments (from signatures.py), and the script itself.
--
-- KEYS
--
-- Every key begins with KEYS[1], the deployment's prefix with its hash tag in braces. So all keys share one hash slot,
-- and a script may reach any of them. Instants are Unix ms.
--
-- grant:ID         string  One grant: the packed record of record.py.
--                          Written by imports, leases, commits, outcomes and operators. Lives until delete_grant or
--                          forget_revoked.
-- deleted:ID       string  The record of a grant that was deleted under a lease.
--                          Written by delete_grant and forget_revoked. Expires when that lease ends.
-- schedule:CLIENT  zset    Every grant of a client, by when it is due; +inf where it is failed, paused or never due.
--                          Written with each record. A member lives as long as its grant.
-- ids:CLIENT       zset    Every grant of a client, in the order of their ids: all scores are 0. Listings read it.
--                          Written by imports and deletions, and by index_grants where an earlier release wrote none.
--                          A member lives as long as its grant.
-- agenda           zset    Every client, by when it is to be looked at: no later than its first grant is due; +inf where
--                          nothing of it ever is. Written with each schedule. Rebuilt from `clients` when an epoch
--                          begins, and when it has fewer members than they. Lives for ever.
-- client:CLIENT    hash    What is known of a client. Lives for ever.
--                          Fields of claims: endpoint (its token URL), claimed_at, budget (requests it may send),
--                          budget_at.
--                          Fields of rejections: state (accepted, rejected), reason, rejected_at, accepted_at,
--                          changed_by (event id), believed_at (where every grant was rejected: when that is believed),
--                          generation (how often it was accepted again), probe_at, probe_delay, probed_by (event id),
--                          probes (how many).
--                          Fields of comparison: refusals (the last ones, packed: see record_refusal.lua), refreshed_at
--                          (when the last request left that brought tokens), wary_at (since when one grant at a time
--                          is tried, to find out whom refusals mean), tried_all (nothing is left to compare with),
--                          compared (how many of those that were tried for it were refused).
--                          Fields of registrations: registration (the one that claims have), proved (the one that has
--                          brought tokens), proved_at, single (the grant that is or was tried alone), single_until (the
--                          end of its lease), single_registration (that it was tried with), unread_registration (the
--                          one to which the last kept reply came).
--                          Fields of throttling: throttled_until, throttled_at, throttle_delay, throttled_by (event
--                          id).
--                          Fields that count: refreshed, late (refreshed after its token had ended), grants:active,
--                          grants:failing, grants:failed, grants:paused.
-- counters:CLIENT  hash    How often, since the deployment began: refreshes:OUTCOME (attempts that brought no tokens, by what
--                          they came to), served:OUTCOME (token calls). Written by record_outcome, keep_reply, hand_out
--                          and heartbeat. Lives for ever.
-- endpoint:URL     hash    What is known of a token endpoint. Lives for ever.
--                          Fields of outages: state (available, unavailable), reason, since, recovered_at,
--                          recovered_by (event id), suspect (the one grant whose failures opened the breaker),
--                          probe_at, probe_delay, probed_by (event id), probes (how many).
--                          Fields of failures: failures (the last ones, packed: event id, grant, when sent).
-- answered         zset    Token URLs, by when the last request left that was answered readably.
--                          Written by commits and outcomes. Lives for ever.
-- claim:ID         string  What a claim leased of each client, packed, so that a repeated one gets the same leases.
--                          Written by claim and lease. Expires with the leases.
-- handed:ID        string  What a hand-out promised, packed, so that a repeated one promises the same and is audited once;
--                          empty for an entry of note_audit. Written by both. Expires after a minute.
-- refused:GRANT    string  When a grant was last refreshed because an API had refused its access token.
--                          Written by lease. Expires after a minute.
-- runners          zset    The places of refresh tasks, queued or at work, by when each place ends.
--                          Written by reserve_runners, claim and release_runner. Ended places go at the next reserve,
--                          all of them when an epoch begins.
-- rejections:CLIENT zset   Grants whose rejection is not believed yet, for every grant of the client is rejected; by when
--                          it will be. Written by record_outcome. A member is removed when it is claimed, all of them
--                          when the client is accepted.
-- fence            string  The last fence that was given out. Written by leases. Lives for ever.
-- attention        zset    Grants that a person may have to see to, by when something ends for them.
--                          Written by imports, commits, outcomes and operators. A member lives until that is resolved.
-- unreadable       set     Grants whose records could not be read; some may have been put right since.
--                          Written by claim and note_unreadable. A member lives until its grant is imported or deleted.
-- replies          hash    Kept replies, by number: what is known of each, packed (see `kept_reply`); under `last`, the
--                          last number. Written by keep_reply, and by what ends the keeping: a commit of other tokens,
--                          an import, a deletion, drop_reply.
-- reply:NUMBER     string  A kept reply, sealed. Lives as long as its entry in `replies`.
-- unread           zset    Numbers of kept replies, by when the access tokens of their grants end, which fail then.
--                          Written by keep_reply. A member lives until its grant has failed, or its reply is gone.
-- dropped          zset    Fences of kept replies that were given up, by when: a journal may offer them again.
--                          Written by drop_reply. A member lives for a month.
-- clients          set     Every client that ever had a grant here. Written by import_grant. Lives for ever.
-- events           stream  The events of this deployment. Written with the changes they tell of. Cut to about as many
--                          as the settings say.
-- audit            stream  Who did what, to which grant and version, when, from where; of a token until when it was promised.
--                          One JSON object in the field `entry`. Written with each hand-out and change, and by
--                          note_audit. Cut to about as many as the settings say.
-- epoch            hash    The store's epoch (see the end of this file). Written by each script that reads it. Lives
--                          for ever.
--                          Fields: number, run_id (of the server, when the epoch began), instance (the same for
--                          processes that may not read run ids: see instance.py), named (the present instance),
--                          heartbeat_at (the last one of any process), seen_since (the recovery waits for processes
--                          seen since then), least_until and ends_at (of the recovery), began_at (when the first
--                          process reached this store; a store that was flushed begins anew), meets_at (when
--                          Redis's clock meets the store's again: see `now_us`), jumped_at and jumped_by (when and by
--                          how much Redis's clock was last set, back where that is negative), held_since and held_until
--                          (leases that end after the first hold until the second: see `lease_end`).
-- processes        zset    Processes, by their last heartbeat. Written by heartbeat and leave. A member lives until it
--                          leaves, or until the first epoch that begins a day after its last heartbeat.
-- recovered        set     Processes that finished recovery in this epoch. Written by finish_recovery and leave.
--                          Emptied when an epoch begins.
-- troubles         hash    Why each process claims nothing; its fields are the processes. Written by heartbeat
--                          and leave. A field lives until its process says otherwise, or leaves.
-- untaken          hash    For each process, the grants whose answers the store fails at, packed; its fields are the
--                          processes. Written by heartbeat and leave. A field lives until its process says otherwise,
--                          or leaves.
-- workers          zset    The processes among them that run refresh tasks, by their last heartbeat. Written with it. A
--                          member lives until it leaves, or for a day; the last one of those that died too.
-- beats            zset    Beats, by their last heartbeat. Written by note_beat. A member lives until its beat ends, or for a
--                          day.
-- measures         hash    What belongs to no client: lateness:BOUND and duration:BOUND (how many refreshes took so long, by
--                          the bound of their bucket), lateness:sum, duration:sum (ms), served:OUTCOME (calls for grants
--                          of which nothing is known), unsealed:KEY (attempts for which that key was missing), swept_at.
--                          Written by heartbeat and reserve_runners. Lives for ever.
-- batch:OWNER      string  The number of the last batch of counts that a process has added. Written by heartbeat. Expires
--                          a day after its last batch, or when the process leaves.
-- apikeys          hash    API keys of the HTTP service, packed, each under the fingerprint of its name: name, digest
--                          (SHA-256 of the key), scopes, labels, created_at. Never a key itself. Written by add_api_key
--                          and remove_api_key. A field lives until its key is revoked.
-- keyuses          hash    When each API key was last used, to the minute. Written by note_key_use and remove_api_key.
--                          A field lives as long as its key.
-- ended:ID         string  Nothing: the session of the console that this names was ended by its holder. Written by
--                          end_session. Expires when no cookie of the session could be shown any more.
-- signin:ID        hash    A sign-in: phase (open, returned, consented, confirmed, revoked, failed), wanted (what it is
--                          for, packed by sign_ins.py), link (SHA-256, as are the next three), state:DIGEST (of
--                          each departure: the browser's), code, until_at (the end of its link, then of its consent),
--                          starts (how many), return_id and fence (of the person's return), grant (its id), packed (the
--                          record that its consent would be), revoke (a record whose pair is to be revoked), tries.
--                          Written by open_sign_in, start_sign_in, end_sign_in, keep_consent, confirm_consent and
--                          those that follow. Expires a day after its end; not while it has a consent or a pair.
-- consents         zset    Sign-ins that have a consent or a pair to be revoked, by when it is to be. Written by
--                          keep_consent, confirm_consent, take_revocations and forget_consent. A member lives until its
--                          pair is revoked, or is a grant's.
-- webhooks         hash    Webhooks, packed, each under its id: url, types, labels, created_at, secrets (sealed, and until when
--                          each signs). Written by add_webhook, replace_webhook and remove_webhook. A field lives until
--                          its webhook is removed.
-- webhook:ID       hash    How a webhook is getting on. Written by add_webhook and those that follow; lives as long as it.
--                          Fields: place (up to where it has the stream), counted (how many events had been written up to
--                          there), hold_until (nothing is sent before), failing_since (nothing but failures since),
--                          failed_with (the last one), disabled_at, disabled_for, delivered, given_up and lost (how many events).
-- undelivered:ID   hash    The queue of a webhook: events by stream id, packed: how often each was tried, the event. Written
--                          by enqueue_deliveries and record_delivery. A field lives until its event is delivered or
--                          given up, or its webhook removed.
-- retries:ID       zset    The same events, by when each is tried next. Written with them.
-- deliveries:GRANT string  The last deliveries of a grant's events, packed, newest first: webhook, event id, when, outcome,
--                          tries. Written by record_delivery. Expires a week after the last one.
-- deliverer        string  The task that has the place for delivering. Written by reserve_deliverer and release_deliverer.
--                          Expires unless its task keeps it.
-- barrier          string  Empty: the write that WAIT waits for. Written by scripts.py, and by fleet_state.py to
--                          find out whether the store takes writes. Lives for ever.

local P = KEYS[1]
local FOREVER = '+inf'
local NO_END = 2^53 - 1

local function redis_us()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The store's clock. It is Redis's, but never runs back: where Redis's clock is set back, the store's goes on ahead of
-- it, a hundredth slower, until Redis's meets it again. All instants here are the store's.
local SLOWER = 100
local meets_at -- by Redis's clock, ms; 0 where the two are one

local function know_clock(known) meets_at = tonumber(known or '0') end

local function ahead_us(by_redis)
  return math.max(math.floor((meets_at * 1000 - by_redis) / SLOWER), 0)
end

local function now_us()
  if not meets_at then know_clock(redis.call('HGET', P .. 'epoch', 'meets_at')) end
  local by_redis = redis_us()
  return by_redis + ahead_us(by_redis)
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

local function grant_key(id) return P .. 'grant:' .. id end
local function deleted_key(id) return P .. 'deleted:' .. id end
local function schedule_key(client) return P .. 'schedule:' .. client end
local function ids_key(client) return P .. 'ids:' .. client end
local function client_key(client) return P .. 'client:' .. client end
local function counters_key(client) return P .. 'counters:' .. client end
local function endpoint_key(url) return P .. 'endpoint:' .. url end
local function claim_key(claim_id) return P .. 'claim:' .. claim_id end
local function handed_key(request_id) return P .. 'handed:' .. request_id end
local function refused_key(id) return P .. 'refused:' .. id end
local function rejections_key(client) return P .. 'rejections:' .. client end
local function sign_in_key(sign_in) return P .. 'signin:' .. sign_in end
local function reply_key(number) return P .. 'reply:' .. number end

-- Lua's own conversion would write large numbers as 1.7e+12.
local function digits(number) return string.format('%.0f', number) end

-- A list that is kept packed in a field; empty where the field is not there.
local function unpack_list(packed) return packed and cmsgpack.unpack(packed) or {} end

-- A record begins with MessagePack's head of an array of 16 fields and more.
local HEAD, HEAD_BYTES, MOST_FIELDS = 0xdc, 3, 255
-- A record of another format begins with this byte, and the format's number.
local OTHER_FORMAT = string.char(0xc1)

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

-- All fields of a record; false for those that an older release did not know.
local function all_fields(packed)
  local r = fields(packed, MOST_FIELDS)
  for place = #r + 1, WIDTH do r[place] = false end
  return r
end

local function load(id)
  local packed = read(id)
  return packed and all_fields(packed)
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
  if not reads and not own_error(r) then error(r, 0) end
  if reads and (not r or type(r[LEASE_UNTIL]) == 'number' and type(r[CLIENT]) == 'string') then return r end
end

-- Whether a newer release wrote a grant's record: it is left as it is.
local function is_of_newer_format(id)
  return redis.call('GETRANGE', grant_key(id), 0, 0) == OTHER_FORMAT
end

local function pack_front(front)
  local packed = front.packed
  return packed:sub(1, HEAD_BYTES) .. cmsgpack.pack(unpack(front, 1, FRONT)) .. packed:sub(front.rest_at + 1)
end

local function is_out_of_work(r)
  return r[STATUS] == 'failed' or r[STATUS] == 'paused'
end

-- Every write of a schedule goes through here, so that the agenda is never later than a schedule. `soonest` is the
-- first of the scores that follow, each with its grant.
local function write_schedule(client, soonest, ...)
  redis.call('ZADD', schedule_key(client), ...)
  redis.call('ZADD', P .. 'agenda', 'LT', soonest, client)
end

-- Whether a handed-out access token must not be rotated yet. A lease ends the promise, so none is outstanding under it.
local function is_promised(r, now)
  return (r[PROMISED_UNTIL] or 0) > now
end

-- The grant has another pair: what was promised was promised of the former one.
local function forget_promise(r)
  r[PROMISABLE_UNTIL], r[OUTLIVES], r[PROMISED_UNTIL] = false, false, false
end

-- `due_at` is nil for never. A grant that has a kept reply is never due: its token is used up. A promised one is not
-- due before its promise ends.
local function schedule(id, r, due_at)
  local is_never = is_out_of_work(r) or r[KEPT_REPLY] or not due_at
  local score = is_never and FOREVER or digits(math.max(due_at, r[PROMISED_UNTIL] or 0))
  write_schedule(r[CLIENT], score, score, id)
end

-- Put a new grant into its client's index. Every scheduled grant is in it, and no other.
local function enlist(client, id) redis.call('ZADD', ids_key(client), 0, id) end

-- Take a grant out of a client's schedule and index. Returns whether it was in the schedule.
local function delist(client, id)
  redis.call('ZREM', ids_key(client), id)
  return redis.call('ZREM', schedule_key(client), id) == 1
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

-- Count what is not a number of grants; nil is not counted.
local function tally(client, what, outcome)
  if outcome then redis.call('HINCRBY', counters_key(client), what .. ':' .. outcome, 1) end
end

-- Delete a grant whose record cannot be read. Its status is unknown: it is counted as active, as most are.
local function drop_unreadable(id)
  for _, client in ipairs(redis.call('SMEMBERS', P .. 'clients')) do
    if delist(client, id) then count(client, 'grants:active', -1) end
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

-- Give a grant to the client that asked for its tokens: they are that client's, and sealed for it. An import that named
-- another one meanwhile was mistaken, for the server took the token from this one. The caller saves and schedules `r`.
local function give_to(client, id, r)
  count(r[CLIENT], 'grants:' .. r[STATUS], -1)
  delist(r[CLIENT], id)
  enlist(client, id)
  redis.call('SADD', P .. 'clients', client)
  count(client, 'grants:' .. r[STATUS], 1)
  r[CLIENT] = client
end

-- `event` is nil where a change has none.
local function emit(event, events_kept)
  if event then
    redis.call('XADD', P .. 'events', 'MAXLEN', '~', digits(events_kept), '*', 'event', event)
  end
end

-- The labels of a grant as an audit entry has them: an id may be another's later, whom they do not concern. Nil where
-- it has none.
local function labels_of(r)
  return r[LABELS] and cjson.decode(r[LABELS]) or nil
end

local function audit(entry, audit_kept)
  redis.call('XADD', P .. 'audit', 'MAXLEN', '~', digits(audit_kept), '*', 'entry', cjson.encode(entry))
end

-- Write down who made a change; `by` is {actor, origin}, or nil where nobody asked for it. `r` is the grant that it
-- concerns, nil where it concerns none or its record cannot be read.
local function audit_change(what, by, audit_kept, id, r, key, webhook)
  if not by then return end
  audit({what = what, grant = id, version = r and r[VERSION], labels = r and labels_of(r), key = key, webhook = webhook,
    at = now_ms(), actor = by[1], from = by[2]}, audit_kept)
end

-- The grant of this id, if it has the refresh token of record `r` or one that descends from it; else false. A pair without
-- a refresh token is known by when it was issued.
local function of_line(id, r)
  local stored = try(load, id)
  if not stored then return false end
  local is_it
  if r[LINEAGE] == '' then
    is_it = stored[LINEAGE] == '' and stored[ISSUED_AT] == r[ISSUED_AT]
  else
    is_it = stored[LINEAGE] == r[LINEAGE] or stored[IMPORTED] == r[LINEAGE] or stored[IMPORTED] == r[IMPORTED]
  end
  return is_it and stored
end

-- A sign-in has no pair any more; it is remembered for a while, so that a journal does not bring it back.
local function forget_pair(sign_in, kept_ms)
  redis.call('ZREM', P .. 'consents', sign_in)
  redis.call('HDEL', sign_in_key(sign_in), 'packed', 'revoke')
  redis.call('PEXPIRE', sign_in_key(sign_in), kept_ms)
end

-- Put a record from outside in the place of `old`, or of none. A process that refreshes the old pair keeps its lease
-- until it is done: its outcome will find another lineage.
local function put(id, old, new, due_at, attention_at)
  local before = old
  if not old then
    local deleted = redis.call('GET', deleted_key(id))
    before = deleted and cmsgpack.unpack(deleted)
  end
  if before then
    new[LEASE_OWNER], new[LEASE_UNTIL] = before[LEASE_OWNER], before[LEASE_UNTIL]
    new[FENCE], new[LAST] = before[FENCE], before[LAST]
    if before[LINEAGE] == new[LINEAGE] then new[INTENT] = before[INTENT] end
  end
  if old then
    count(old[CLIENT], 'grants:' .. old[STATUS], -1)
    delist(old[CLIENT], id)
  end
  redis.call('SADD', P .. 'clients', new[CLIENT])
  forget_unreadable(id)
  save(id, new)
  count(new[CLIENT], 'grants:' .. new[STATUS], 1)
  enlist(new[CLIENT], id)
  schedule(id, new, due_at)
  note_attention(id, attention_at)
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
-- Less than a lease leaves for its commit; processes send a heartbeat every second. Redis's clock may be set forward by
-- as much unnoticed, so such a holder is waited for at least as long.
local SILENCE_MS = 3000

-- Redis's clock may have been set forward when an epoch began. Leases that were running at the last heartbeat before it
-- then ended at once, under their requests. So they hold for a lease's length from the epoch's beginning. Known once
-- `epoch` was called.
local held_since, held_until = 0, 0

local function lease_end(r)
  return r[LEASE_UNTIL] > held_since and math.max(r[LEASE_UNTIL], held_until) or r[LEASE_UNTIL]
end

local function claimable_from(r)
  local holder = r[INTENT] and r[LEASE_OWNER]
  if not holder then return r[LEASE_UNTIL] end
  if not redis.call('ZSCORE', P .. 'processes', holder) then return lease_end(r) end
  local life_left = r[ACCESS_EXPIRES_AT] and r[ACCESS_EXPIRES_AT] - r[LEASE_UNTIL] or NO_END
  local patience_ms = math.min(PATIENCE_MS, math.max(math.floor(life_left / 2), SILENCE_MS))
  return math.max(r[LEASE_UNTIL] + patience_ms, lease_end(r))
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
  write_schedule(fronts[1][CLIENT], ends_at, unpack(dues))
end

-- The try of one grant alone is over.
local function end_single(client, id)
  local state = client_key(client)
  if redis.call('HGET', state, 'single') == id then redis.call('HSET', state, 'single_until', 0) end
end

-- A registration that has not refreshed anything yet risks one grant at a time. `known` holds what the client's hash says
-- of it. Returns the grant whose reply to it is unknown: no other is risked before that one is resolved, or has to be.
local function grant_at_risk(client, known)
  local r = known.single and try(load, known.single)
  local is_in_doubt = r and r[CLIENT] == client and r[INTENT] and not r[KEPT_REPLY]
  if is_in_doubt and not is_out_of_work(r) then return known.single end
end

local function note_single(client, id, until_ms, registration)
  redis.call('HSET', client_key(client), 'single', id, 'single_until', digits(until_ms),
    'single_registration', registration)
end

-- Note that a grant got tokens by a request that left at `sent_at`. From now on refusals of others that came before it
-- are those grants' own; and the registration that asked has proved itself.
local function note_refreshed(client, known, sent_at, id)
  local state = client_key(client)
  if sent_at > tonumber(known.refreshed_at or '0') then redis.call('HSET', state, 'refreshed_at', digits(sent_at)) end
  if known.wary_at and sent_at > tonumber(known.wary_at) then
    redis.call('HDEL', state, 'wary_at', 'tried_all', 'compared')
  end
  if known.single == id then
    redis.call('HSET', state, 'single_until', 0)
    if known.registration and known.proved ~= known.registration then
      redis.call('HSET', state, 'proved', known.registration, 'proved_at', digits(now_ms()))
    end
  end
end

-- Note that a client's token endpoint answered readably a request that left at `sent_at`: failures before it are no
-- longer in a row. `refreshed` is the grant that got tokens, if one did: it is cleared of suspicion.
-- On the path of every commit, so it uses few commands.
local function note_answer(client, sent_at, refreshed)
  local known = {}
  known.url, known.refreshed_at, known.wary_at, known.single, known.registration, known.proved = unpack(redis.call(
    'HMGET', client_key(client), 'endpoint', 'refreshed_at', 'wary_at', 'single', 'single_registration', 'proved'))
  if refreshed then note_refreshed(client, known, sent_at, refreshed) end
  local url = known.url
  if not url then return end
  redis.call('ZADD', P .. 'answered', 'GT', digits(sent_at), url)
  local endpoint = endpoint_key(url)
  if refreshed and redis.call('HGET', endpoint, 'suspect') == refreshed then redis.call('HDEL', endpoint, 'suspect') end
end

-- Send nothing to an endpoint but a half-open probe now and then.
local function stop_endpoint(endpoint, reason, now, first_probe_ms)
  redis.call('HSET', endpoint, 'state', 'unavailable', 'since', digits(now), 'reason', reason,
    'probe_delay', digits(first_probe_ms), 'probe_at', digits(now + first_probe_ms))
end

-- After a probe that failed, wait twice as long for the next one. `key` is the client's or the endpoint's; `share` is how
-- much of the delay to wait, 0 to 1; what follows is set with it. Repeated with the same event id, it changes nothing.
local function put_off_next_probe(key, event_id, now, first_ms, longest_ms, share, ...)
  local known = redis.call('HMGET', key, 'probe_delay', 'probed_by')
  if known[2] == event_id then return end
  local delay = math.min(tonumber(known[1] or first_ms) * 2, longest_ms)
  redis.call('HSET', key, 'probe_delay', digits(delay), 'probe_at', digits(now + delay * share), 'probed_by', event_id,
    ...)
end

-- Let an unavailable endpoint be used again.
local function recover_endpoint(endpoint, event_id, grant)
  redis.call('HSET', endpoint, 'state', 'available', 'recovered_at', digits(now_ms()), 'recovered_by', event_id)
  redis.call('HDEL', endpoint, 'since', 'reason', 'probe_at', 'probe_delay', 'probed_by', 'failures')
  if redis.call('HGET', endpoint, 'suspect') == grant then redis.call('HDEL', endpoint, 'suspect') end
end

-- What is known of a kept reply; false where there is none of that number. Its fields: grant, client, token_url,
-- registration, version (of the pair that was presented), fence, sent_at, received_at, detail, size,
-- access_expires_at (of the grant; false for never), earlier (the number of an earlier reply to the same pair, or
-- false). The record's KEPT_REPLY is the number of the last one.
local function kept_reply(number)
  local packed = redis.call('HGET', P .. 'replies', digits(number))
  return packed and cmsgpack.unpack(packed)
end

local function any_kept_reply(is_meant)
  local found = redis.call('HGETALL', P .. 'replies')
  for place = 1, #found, 2 do
    if found[place] ~= 'last' and is_meant(cmsgpack.unpack(found[place + 1])) then return true end
  end
  return false
end

-- Remove a kept reply. Its registration is under no suspicion any more once one of its replies was read, or none is
-- left.
local function remove_reply(number, reply, is_read)
  redis.call('HDEL', P .. 'replies', digits(number))
  redis.call('DEL', reply_key(digits(number)))
  redis.call('ZREM', P .. 'unread', digits(number))
  local state = client_key(reply.client)
  if redis.call('HGET', state, 'unread_registration') ~= reply.registration then return end
  local is_left = not is_read and any_kept_reply(function(other)
    return other.client == reply.client and other.registration == reply.registration
  end)
  if not is_left then redis.call('HDEL', state, 'unread_registration') end
end

-- The grant has another pair, or is deleted: what came to the former one is of no use any more.
local function forget_replies(r, is_read)
  local number = r[KEPT_REPLY]
  if not number then return end
  r[KEPT_REPLY] = false
  while number do
    local reply = kept_reply(number)
    if reply then remove_reply(number, reply, is_read) end
    number = reply and reply.earlier
  end
end

-- Delete a grant. A worker may be presenting its refresh token: if the grant is imported again meanwhile, that lease
-- still holds.
local function drop(id, r)
  forget_replies(r, false)
  local lease_left_ms = r[LEASE_UNTIL] - now_ms()
  if lease_left_ms > 0 then
    redis.call('SET', deleted_key(id), cmsgpack.pack(r), 'PX', digits(lease_left_ms))
  end
  redis.call('DEL', grant_key(id))
  delist(r[CLIENT], id)
  count(r[CLIENT], 'grants:' .. r[STATUS], -1)
  note_attention(id, nil)
  forget_unreadable(id)
end

-- What of a client may be claimed now. Returns whether anything may; whether that is one grant alone, as a probe of a
-- rejected client, as a probe of an unavailable endpoint, or as both; when the endpoint recovered (0 for never); and
-- since or until when claims are let in.
-- A client whose every grant was rejected is probed no longer once that is believed: then each grant is tried.
-- Without a `url`, its endpoint is the one that the last claim named.
local function admission(client, url, now)
  local of_client = redis.call('HMGET', client_key(client), 'state', 'probe_at', 'throttled_until', 'believed_at',
    'endpoint')
  local endpoint = endpoint_key(url or of_client[5] or '')
  local of_endpoint = redis.call('HMGET', endpoint, 'state', 'probe_at', 'recovered_at')
  local is_believed = of_client[4] and tonumber(of_client[4]) <= now
  local client_probe, endpoint_probe = of_client[1] == 'rejected' and not is_believed, of_endpoint[1] == 'unavailable'
  local opens_at = math.max(tonumber(of_client[3] or '0'),
    client_probe and tonumber(of_client[2] or '0') or 0,
    endpoint_probe and tonumber(of_endpoint[2] or '0') or 0)
  return opens_at <= now, client_probe, endpoint_probe, tonumber(of_endpoint[3] or '0'), opens_at
end

-- The agenda may be too early: a grant was claimed, or nothing may be claimed for now. A look at a client puts it right.
-- Without it, what is due costs as much as what is configured.
local CLIENT_AGAIN_MS = 2000 -- at a client that may not be claimed from; meanwhile another's probe may let it
local UNREADABLE_CLIENT_MS = 300000 -- the same, where what is stored of the client is not what any release has written

local function put_on_agenda(client, at)
  redis.call('ZADD', P .. 'agenda', at == math.huge and FOREVER or digits(at), client)
end

-- When the first rejection of a client is believed whose every grant is rejected: that does not wait for a probe.
local function first_believed_at(client)
  local throttled_until = redis.call('HGET', client_key(client), 'throttled_until')
  local first = redis.call('ZRANGE', rejections_key(client), 0, 0, 'WITHSCORES')
  return first[2] and math.max(tonumber(first[2]), tonumber(throttled_until or '0')) or math.huge
end

-- Look at a client. Returns whether something may be claimed now, and whether that is a probe. A probe takes a grant
-- whether it is due or not. After a claim that said `drained` what is due is not free yet, and is not claimed again at
-- once. `is_open` is true where it is known already that claims are let in, and are no probes.
local function look_at(client, now, drained, is_open)
  local first = redis.call('ZRANGE', schedule_key(client), 0, 0, 'WITHSCORES')
  if not first[2] or first[2] == 'inf' then
    put_on_agenda(client, math.huge)
    return false, false
  end
  local admitted, client_probe, endpoint_probe, opens_at, _ = true, false, false, 0, nil
  if not is_open then admitted, client_probe, endpoint_probe, _, opens_at = admission(client, nil, now) end
  local is_probe = client_probe or endpoint_probe
  local at = is_probe and now or tonumber(first[2])
  if not admitted then at = math.max(at, math.min(opens_at, now + CLIENT_AGAIN_MS)) end
  if client_probe and not endpoint_probe then at = math.min(at, first_believed_at(client)) end
  if drained and at <= now then at = now + CLIENT_AGAIN_MS end
  put_on_agenda(client, at)
  return at <= now, is_probe
end

-- The same, where one unreadable client must stop no other.
local function try_look_at(client, now)
  local reads, may_claim, is_probe = pcall(look_at, client, now, false)
  if reads then return may_claim, is_probe end
  put_on_agenda(client, now + UNREADABLE_CLIENT_MS)
  return nil
end

-- A store of a former release has no agenda, and a restart may have lost its last writes.
local function rebuild_agenda(now)
  for _, client in ipairs(redis.call('SMEMBERS', P .. 'clients')) do
    redis.call('ZADD', P .. 'agenda', 'LT', digits(now), client)
  end
end

-- An epoch of the store ends when the server restarts or fails over (its run id changes, or its scripts are gone: writes
-- may be lost, leases forgotten), or when no process reached it for a while (leases may have run out under answers that could not be
-- stored). The next epoch begins with a recovery. No claim passes until every process that was present has given back
-- what the store forgot, or until every request in flight must have ended. Each process then claims in an epoch only
-- once it has finished that epoch's recovery itself.

local DAY_MS = 86400000
local LEAST_RECOVERY_MS = 2000 -- time for a process whose registration was forgotten to come forward
local LEAST_JUMP_MS = 1000 -- of Redis's clock that is worth telling

-- Who may not read the server's run id has named the server's present life instead: INSTANCE, else nil.
local LIFE = INSTANCE and 'instance' or 'run_id'

local function run_id()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and info:match('run_id:(%w+)') or error('NO RUN ID')
end

-- A script under a name runs where it was loaded; the name itself may have been superseded.
local function instance()
  if redis.call('HGET', P .. 'epoch', 'named') ~= INSTANCE then error('ANOTHER INSTANCE') end
  return INSTANCE
end

local function all_recovered(seen_since)
  local present = redis.call('ZRANGEBYSCORE', P .. 'processes', digits(seen_since), '+inf')
  for _, owner in ipairs(present) do
    if redis.call('SISMEMBER', P .. 'recovered', owner) == 0 then return false end
  end
  return true
end

-- The recovery waits for processes seen shortly before the last heartbeat of any: a store that was away saw nobody. One
-- that begins before another has ended waits for those of the other, too.
local function begin_epoch(number, run, restarted, now, last_heartbeat_at, recovery_ms)
  local before = redis.call('HMGET', P .. 'epoch', 'ends_at', 'seen_since')
  local seen_since = last_heartbeat_at - recovery_ms
  if before[1] then seen_since = math.min(seen_since, tonumber(before[2])) end
  local somebody = redis.call('ZCARD', P .. 'processes') > 0
  local least_ms = (restarted or before[1]) and somebody and LEAST_RECOVERY_MS or 0
  if held_until <= last_heartbeat_at then held_since = last_heartbeat_at end
  held_until = now + recovery_ms
  -- First, for it takes memory: a store that has none refuses the script here, and not once it has removed something.
  redis.call('HSET', P .. 'epoch', 'number', digits(number), LIFE, run,
    'seen_since', digits(seen_since), 'least_until', digits(now + least_ms),
    'ends_at', digits(now + recovery_ms), 'held_since', digits(held_since), 'held_until', digits(held_until))
  rebuild_agenda(now)
  -- A runner that goes on takes its place again with its next claim. Others gave up while the store was away, or the
  -- broker has lost them: a place that is kept for such a one would hold up everything that is due.
  redis.call('DEL', P .. 'recovered', P .. 'runners')
  redis.call('ZREMRANGEBYSCORE', P .. 'processes', '-inf', digits(last_heartbeat_at - DAY_MS))
end

-- Note how Redis's clock was set, for `evergrant status`.
local function note_jump(now, by_ms)
  if math.abs(by_ms) < LEAST_JUMP_MS then return end
  redis.call('HSET', P .. 'epoch', 'jumped_at', digits(now), 'jumped_by', digits(by_ms))
end

-- Let the store's clock go on from `at` although Redis's is behind.
local function go_on_from(at, now)
  local by_redis = math.floor(redis_us() / 1000)
  meets_at = by_redis + (at - by_redis) * SLOWER
  redis.call('HSET', P .. 'epoch', 'meets_at', digits(meets_at))
  note_jump(at, now - at)
end

-- The store's clock, the epoch's number, and whether it is still recovering. `at_least` is what the caller knows of the
-- clock: it was told as much before, or its own says that so much time has passed. `recovered_in` is the epoch in which it
-- may claim; a store that has forgotten it does not use its number again.
local function epoch(recovery_ms, at_least, recovered_in)
  local key, run = P .. 'epoch', INSTANCE and instance() or run_id()
  local known = redis.call('HMGET', key, 'number', LIFE, 'heartbeat_at', 'ends_at', 'meets_at', 'held_since',
    'held_until')
  know_clock(known[5])
  held_since, held_until = tonumber(known[6] or '0'), tonumber(known[7] or '0')
  local now = now_ms()
  local number, ends_at = tonumber(known[1] or '0'), tonumber(known[4] or '0')
  if not known[1] then redis.call('HSET', key, 'began_at', digits(now)) end
  local restarted, last_heartbeat_at = known[2] ~= run, tonumber(known[3] or now)
  -- Whether only this caller knows that the clock was late: leases that others were given meanwhile end too soon.
  local was_late = last_heartbeat_at <= now and (at_least or 0) > now
  local reached = math.max(last_heartbeat_at, at_least or 0)
  if reached > now then
    go_on_from(reached, now)
    now = reached
  end
  if restarted or was_late or now - last_heartbeat_at > SILENCE_MS then
    number = math.max(number + 1, now, recovered_in + 1)
    ends_at = now + recovery_ms
    begin_epoch(number, run, restarted, now, last_heartbeat_at, recovery_ms)
  end
  redis.call('HSET', key, 'heartbeat_at', digits(now))
  if ends_at == 0 then return now, number, false end
  local waits = redis.call('HMGET', key, 'least_until', 'seen_since')
  if now < ends_at and (now < tonumber(waits[1]) or not all_recovered(tonumber(waits[2]))) then
    return now, number, true
  end
  redis.call('HDEL', key, 'ends_at')
  return now, number, false
end
