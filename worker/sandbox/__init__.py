"""An authorization server on loopback that rotates strictly and judges whoever talks to it.

The demo and the tests share it. It shares no code with the product, so that a mistake of the
product cannot hide in its judge. The map:

    profiles.py   how Buddy, PagerDuty and plain RFC 6749 servers differ: data
    form.py       one request at the token endpoint, read from its headers and body
    issuer.py     grants, tokens and rotation; `now` is an argument
    judge.py      what clients did to the server: counters and a log
    faults.py     which fault meets the next token request
    inputs.py     control bodies, read strictly
    control.py    the routes under /control
    server.py     the token endpoint over HTTP, and connections dropped for real
    __main__.py   `python -m worker.sandbox`
    client.py     `Sandbox`: starts a server as a process and speaks to its control routes
"""
