-- Give a kept reply up. When no other reply to the same pair is kept, its grant's token is tried again.
--
-- Returns done or gone.

local MEMORY_MS = 30 * DAY_MS -- longer than a journal lies on a disk that is away

local reply = kept_reply(number)
if not reply then return 'gone' end
local now = now_ms()
redis.call('ZADD', P .. 'dropped', digits(now), digits(reply.fence))
redis.call('ZREMRANGEBYSCORE', P .. 'dropped', '-inf', digits(now - MEMORY_MS))
remove_reply(number, reply, false)

-- Take it out of the list that begins in the record.
local function unlink(r)
  if r[KEPT_REPLY] == number then
    r[KEPT_REPLY] = reply.earlier
    return
  end
  local each = r[KEPT_REPLY]
  while each do
    local other = kept_reply(each)
    if other and other.earlier == number then
      other.earlier = reply.earlier
      redis.call('HSET', P .. 'replies', digits(each), cmsgpack.pack(other))
    end
    each = other and other.earlier
  end
end

local id = reply.grant
local r = try(load, id)
if not r or not r[KEPT_REPLY] then return 'done' end
unlink(r)
if not r[KEPT_REPLY] then
  set_status(r, DROPPED[r[STATUS]])
  if r[STATUS] == 'failing' then
    r[REASON] = reason
    note_attention(id, r[ACCESS_EXPIRES_AT] or NO_END)
  end
end
save(id, r)
schedule(id, r, math.max(now, r[LEASE_UNTIL]))
return 'done'
