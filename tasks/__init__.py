"""The Celery tasks, each a few lines: they call, they do not decide.

sweep.py    every few seconds: count what is due, start as many runners as it takes
refresh.py  refresh what is due, of every client, until nothing is left
discard.py  revoke what nobody is to use any more
deliver.py  send what waits for the webhooks
"""
