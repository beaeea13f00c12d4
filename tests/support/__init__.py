"""What tests of every kind share: servers, deployments, and the types of what fixtures hand out.

servers.py          a Valkey of the wheel, and the sandbox as authorization server
waiting.py          waiting for something to come about
callables.py        the types of the functions that fixtures hand out
store.py            what must always hold in a Redis store
keyspace.py         the table of Redis keys, and that a store has nothing else
member.py           one process of ours, put together for a test
gate.py             a gate between our processes and Redis, which can be shut
command.py          `evergrant`, run as an operator runs it
live.py             one real deployment: the Procfile's processes on the embedded server
deploy_kit.py       the files of `deploy/`: which processes they start, and how
attempts.py         what a refresher makes of an attempt
in_memory_store.py  the store port without Redis, held to the contract in `tests/contract`
virtual_time.py     a loop whose sleeps take no time
"""
