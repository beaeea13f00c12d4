"""Evergrant from Python: call a provider's API with promised tokens, send people to sign in, read webhooks.

```text
auth.py      EvergrantAuth: signs an application's own requests to a provider's API
client.py    Evergrant, AsyncEvergrant: the calls of the HTTP service
calls.py     what each call sends, and how its answer is read
errors.py    EvergrantError
webhooks.py  verify_webhook
```
"""

from evergrant_client.auth import EvergrantAuth
from evergrant_client.calls import SignIn, Token
from evergrant_client.client import AsyncEvergrant, Evergrant
from evergrant_client.errors import EvergrantError
from evergrant_client.webhooks import verify_webhook

__all__ = [
    "AsyncEvergrant",
    "Evergrant",
    "EvergrantAuth",
    "EvergrantError",
    "SignIn",
    "Token",
    "verify_webhook",
]
