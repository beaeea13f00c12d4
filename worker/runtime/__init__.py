"""Settings become objects here, in the process that uses them: the only package that knows both.

deployment.py        where a deployment's things are: the store, the sealing keys, the journals
connections.py       how Redis and Celery's broker are connected to
timing.py            how long things last, derived from the settings
clients.py           the configured clients, read again when their secrets may have changed
store_checks.py      checks at start what the servers promise to keep
assembly.py          puts one process together, and opens and closes what it needs
process.py           one event loop and one runtime for a whole worker process
celery_config.py     settings as Celery's configuration
celery_scheduler.py  beat's scheduler, which never fills a queue that no worker empties
celery_worker.py     what a worker and beat do when they start, fork and stop
"""
