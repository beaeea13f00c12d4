"""What Evergrant knows and decides, free of any effect.

Standard library only; no clock, no sockets, no randomness: `now` and every chance are arguments.
Instants are Unix milliseconds (`..._at`), spans are milliseconds (`..._ms`).

    grant.py      the record: a user's consent and its two tokens
    policy.py     when a grant is due, and why
    outcomes.py   what one attempt to refresh came to
    protocol.py   the token request, and any reply read as an outcome
    lifecycle.py  (phase, outcome) -> status, next due, event
    events.py     what consumers learn
    providers.py  Buddy, PagerDuty, any other server: data
    ports.py      what the refresher needs of the world
"""
