-- Give the place of a task that delivers back.

if redis.call('GET', P .. 'deliverer') == task then redis.call('DEL', P .. 'deliverer') end
return 1
