-- What the scripts of webhooks share; it comes after the prelude in each script that uses it (sources.py).

local webhooks = {}

function webhooks.key(id) return P .. 'webhook:' .. id end
function webhooks.undelivered_key(id) return P .. 'undelivered:' .. id end
function webhooks.retries_key(id) return P .. 'retries:' .. id end
function webhooks.deliveries_key(grant) return P .. 'deliveries:' .. grant end

-- The stream id of the last event; 0-0 where there is none.
function webhooks.last_event()
  local last = redis.call('XREVRANGE', P .. 'events', '+', '-', 'COUNT', 1)[1]
  return last and last[1] or '0-0'
end

-- How many events were ever written, and how many of them the stream holds no longer; nil at a server before Redis 7,
-- which does not count them. And the stream id of the last one, which may be gone.
function webhooks.events_written()
  if redis.call('EXISTS', P .. 'events') == 0 then return 0, 0, '0-0' end
  local told, facts = redis.call('XINFO', 'STREAM', P .. 'events'), {}
  for place = 1, #told, 2 do facts[told[place]] = told[place + 1] end
  local written = facts['entries-added']
  return written, written and written - facts.length, facts['last-generated-id']
end

-- Count the events that the stream lost before a webhook had them; at a server that does not count them, one for all.
function webhooks.note_lost(id)
  local key = webhooks.key(id)
  local known = redis.call('HMGET', key, 'counted', 'place')
  local counted, written, gone, last = tonumber(known[1]), webhooks.events_written()
  if not written then
    local begins_later = #redis.call('XRANGE', P .. 'events', '-', known[2], 'COUNT', 1) == 0
    if known[2] ~= '0-0' and known[2] ~= last and begins_later then redis.call('HSET', key, 'lost', 1) end
  elseif counted > written then -- another stream has taken its place
    redis.call('HSET', key, 'counted', digits(gone))
  elseif gone > counted then
    redis.call('HINCRBY', key, 'lost', digits(gone - counted))
    redis.call('HSET', key, 'counted', digits(gone))
  end
end
