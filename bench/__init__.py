"""What is measured, and against whom: `make bench`.

endpoint.py    the token endpoint that everybody is measured against
bed.py         what a measurement stands on: a Redis, an endpoint, grants that are due, clocks
contenders/    who is measured: the worker as it is deployed, bare loops, the idiom
"""
