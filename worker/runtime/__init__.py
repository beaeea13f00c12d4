"""Settings become objects here, in the process that uses them: the only package that knows both.

deployment.py        where a deployment's things are: the store, the sealing keys, the journals
connections.py       how Redis and Celery's broker are connected to
timing.py            how long things last, derived from the settings
clients.py           the configured clients, read again when their secrets or their file may have changed
issuers.py           keeps them in step with their file and their issuers while a process runs
store_checks.py      checks at start what the servers promise to keep
assembly.py          puts one process together, and opens and closes what it needs
liveness.py          heartbeat files, for probes on this host
process.py           one event loop and one runtime for a whole worker process
celery_config.py     settings as Celery's configuration
celery_logging.py    Celery's own output, in the format of every other line
celery_pools.py      which of Celery's ways to run tasks a worker may use
celery_messages.py   which messages of the broker are ours: whatever is not is dropped
celery_transport.py  kombu's Redis transports, which drop what they cannot read
celery_consumer.py   the part of a worker that talks to the broker, and outlives its errors
celery_scheduler.py  beat's scheduler, which outlives its broker and never fills a queue
celery_worker.py     what a worker and beat do when they start, fork and stop
"""
