"""What Evergrant knows and decides, free of any effect.

Standard library only; no clock, no sockets, no randomness: `now` and every chance are arguments.
Instants are Unix milliseconds (`..._at`), spans are milliseconds (`..._ms`).

    grant.py        the record: a user's consent and its two tokens
    policy.py       when a grant is due, and why
    reasons.py      every reason, with its meaning and its advice
    outcomes.py     what one attempt to refresh came to
    protocol.py     the token request, and any reply read as an outcome
    lifecycle.py    (phase, trigger) -> next phase and event, in one table
    events.py       what consumers learn
    interchange.py  the import line and the export line
    providers.py    Buddy, PagerDuty, any other server: data
    ports.py        what the refresher needs of the world
    registry.py     what the use cases see of the store
"""
