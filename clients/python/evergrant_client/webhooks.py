"""Webhooks as Standard Webhooks 1.0 signs them."""

import hmac
import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from evergrant_client.errors import EvergrantError

TOLERANCE_SECONDS: Final = 300


def verify_webhook(headers: Mapping[str, str], body: bytes, secret: str) -> dict[str, Any]:
    """The event that a webhook brings. The same event may come again: drop an `id` that you have seen.

    Args:
        headers: of the request, in any case.
        body: as it came, byte by byte.
        secret: `whsec_…`, as `evergrant webhooks add` printed it.

    Raises:
        EvergrantError: it is not signed with this secret, or not now.
        ValueError: the secret is none.
    """
    named = {name.lower(): value for name, value in headers.items()}
    event_id, signed_at = named.get("webhook-id", ""), named.get("webhook-timestamp", "")
    if not re.fullmatch(r"[0-9]{1,12}", signed_at) or not event_id:
        raise _invalid("webhook-id and webhook-timestamp are missing or wrong")
    if abs(time.time() - int(signed_at)) > TOLERANCE_SECONDS:
        raise _invalid("it was signed more than five minutes ago, or this machine's clock is wrong")
    content = f"{event_id}.{signed_at}.".encode() + body
    expected = b"v1," + b64encode(hmac.digest(_key_of(secret), content, "sha256"))
    signatures = named.get("webhook-signature", "").encode().split()
    if not any(hmac.compare_digest(signature, expected) for signature in signatures):
        raise _invalid("no signature is of this secret and this body")
    try:
        event = json.loads(body)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise _invalid("the body is not an event")
    return event


def _key_of(secret: str) -> bytes:
    try:
        return b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        raise ValueError("secret takes whsec_… as `evergrant webhooks add` prints it") from None


def _invalid(detail: str) -> EvergrantError:
    return EvergrantError("invalid_webhook", detail)
