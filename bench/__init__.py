"""`make bench`: what is measured, and against whom.

throughput.py  refreshes a second, against the contenders, and with more worker processes
parts.py       the processor time of one refresh, by part
claims.py      the cost of a claim and a sweep, by the number of stored grants
footprint.py   bytes a grant, memory of a worker, seconds to start
lateness.py    the time from due to stored
clients_file.py  what thousands of clients in one file cost (by itself: python -m bench.clients_file)
contenders/    bare loops over HTTP clients, and the idiom
endpoint.py    the token endpoint that all of them ask
bed.py         a deployment for one measurement: a Redis, an endpoint, grants, clocks
plots.py       the plots of docs/performance.md
"""
