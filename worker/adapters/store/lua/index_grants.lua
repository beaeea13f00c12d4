-- Make a client's index of ids agree with its schedule, for some grants: an earlier release kept no index.

for _, id in ipairs(ids) do
  if redis.call('ZSCORE', schedule_key(client), id) then
    redis.call('ZADD', ids_key(client), 0, id)
  else
    redis.call('ZREM', ids_key(client), id)
  end
end
return #ids
