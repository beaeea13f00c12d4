"""The HTTP service: a face beside the command line. It calls use cases, and decides nothing.

serving.py         a listening socket, uvicorn, and an orderly stop
app.py             routes, and what every answer bears
operations.py      every call that there is, in one table
calls.py           one call from its key to its answer, and the limits
authentication.py  keys, and failures by address
reading.py         what a request holds
tokens.py          the call that gives a token away
grants.py          calls about grants
fleet.py           calls about the fleet
console/           what a person sees at `/`
probes.py          livez, readyz
answering.py       JSON, JSON Lines, cursors
models.py          what goes in and comes out, as pydantic models
openapi.py         the document made from table and models
problems.py        RFC 9457 problems and their codes
refusals.py        the use cases' failures as problems

docs/http.md is the contract.
"""
