-- Name the present life of a server whose run id may not be read; this script is loaded under the new name.
--
-- Returns 1, or 0 where another process has named it since `known` was read, or -1 where the server is older than
-- Redis 7: it keeps scripts over a restart and gives them to replicas.

if not redis.REDIS_VERSION_NUM then return -1 end
if redis.call('HGET', P .. 'epoch', 'named') ~= (known or false) then return 0 end
redis.call('HSET', P .. 'epoch', 'named', INSTANCE)
return 1
