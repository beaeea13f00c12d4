-- Give a refresher's place back.
--
-- ARGV: client, runner.

return redis.call('ZREM', P .. 'runners:' .. ARGV[1], ARGV[2])
