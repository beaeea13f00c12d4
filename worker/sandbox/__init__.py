"""An authorization server on loopback that rotates strictly and judges its clients.

The demo and the tests use it. It shares no code with the product, so that a mistake in the product
cannot hide in its judge. The map:

    profiles.py   how Buddy, PagerDuty and plain RFC 6749 servers differ: data
    form.py       one request at the token endpoint, read from its headers and body
    query.py      one request at the authorization endpoint, read from its query
    proofs.py     whether a request proves its client, by each method of client authentication
    issuer.py     grants, tokens and rotation; `now` is an argument
    codes.py      authorization codes and PKCE
    judge.py      what clients did: counters and a log
    faults.py     which fault strikes the next token request
    inputs.py     the bodies of control requests, read strictly
    control.py    the routes under /control
    authorize.py  the authorization endpoint: consent, and the way back with a code or an error
    pages.py      what a person sees in the browser
    metadata.py   what the server says of itself
    server.py     the token endpoint over HTTP, dropped connections included
    __main__.py   `python -m worker.sandbox`
    client.py     `Sandbox`: starts a server process and calls its control routes
"""
