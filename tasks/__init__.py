"""The Celery tasks, each a few lines: they call, they do not decide.

sweep.py    every few seconds: count what is due, start as many runners as it takes
refresh.py  refresh one client's due grants until none is left
"""
