"""What Evergrant knows and decides, free of any effect.

Standard library only; no clock, no sockets, no randomness: `now` and every chance are arguments.
Instants are Unix milliseconds (`..._at`), spans are milliseconds (`..._ms`).

    grant.py        the record: a user's consent and its two tokens
    policy.py       when a grant is due, and why
    reasons.py      every reason, with its meaning and its advice
    outcomes.py     what one attempt to refresh came to
    lifetimes.py    how long tokens live: what is stated in any words, and what is assumed
    protocol.py     the token request, and any reply read as an outcome
    documents.py    what a reply's bytes hold: JSON or a form, in any dress
    issued.py       which tokens a document gives
    refusals.py     what a server says when it gives none
    waits.py        for how long it asks not to be asked
    revocation.py   the revocation request, and what any reply to it means
    reachability.py a harmless question to a token endpoint, and what any reply says of its URL
    lifecycle.py    (phase, trigger) -> next phase and event, in one table
    events.py       what consumers learn
    interchange.py  the import line and the export line
    providers.py    Buddy, PagerDuty, any other server: data
    ports.py        what the refresher needs of the world
    registry.py     what the use cases see of the store
"""
