-- End a session of the console. Its cookie opens nothing from here on.

redis.call('SET', P .. 'ended:' .. session, '', 'PX', kept_ms)
return 1
