"""`verify_webhook` takes what Standard Webhooks 1.0 signs, and nothing else."""

import hmac
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

import pytest

from evergrant_client import EvergrantError, verify_webhook

SECRET = "whsec_" + b64encode(bytes(range(32))).decode()
OLD_SECRET = "whsec_" + b64encode(bytes(range(1, 33))).decode()
EVENT = {"id": "1795322850479455-grant-failed", "type": "evergrant.grant.failed", "subject": "user-42/buddy"}
BODY = json.dumps(EVENT).encode()


def signed(body: bytes = BODY, *secrets: str, age: float = 0) -> dict[str, str]:
    """The headers of a webhook, made as the specification says."""
    signed_at = str(int(time.time() - age))
    content = b".".join([EVENT["id"].encode(), signed_at.encode(), body])
    keys = [b64decode(secret.removeprefix("whsec_")) for secret in secrets or (SECRET,)]
    signatures = [b64encode(hmac.new(key, content, "sha256").digest()).decode() for key in keys]
    return {
        "webhook-id": EVENT["id"],
        "webhook-timestamp": signed_at,
        "webhook-signature": " ".join("v1," + signature for signature in signatures),
    }


def test_a_signed_webhook_is_its_event() -> None:
    assert verify_webhook(signed(), BODY, SECRET) == EVENT


def test_the_case_of_a_headers_name_does_not_matter() -> None:
    assert verify_webhook({name.title(): value for name, value in signed().items()}, BODY, SECRET) == EVENT


def test_while_a_secret_is_replaced_either_of_both_will_do() -> None:
    headers = signed(BODY, OLD_SECRET, SECRET)

    assert verify_webhook(headers, BODY, SECRET) == verify_webhook(headers, BODY, OLD_SECRET) == EVENT


def test_the_example_of_the_specification_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_614_265_330.0)
    headers = {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }

    event = verify_webhook(headers, b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    assert event == {"test": 2432232314}


def without(name: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda headers: {each: value for each, value in headers.items() if each != name}


def having(**changes: str) -> Callable[[dict[str, str]], dict[str, str]]:
    return lambda headers: {**headers, **{"webhook-" + name: value for name, value in changes.items()}}


@pytest.mark.parametrize(
    "change",
    [
        *(without("webhook-" + name) for name in ("id", "timestamp", "signature")),
        having(id="1795322850479455-grant-recovered"),
        having(timestamp=str(int(time.time()) - 10)),
        having(timestamp="now"),
        having(timestamp="9" * 5_000),
        having(signature="v1,"),
        having(signature="v1a," + "A" * 44),
        having(signature="v1,\u00e4"),
    ],
)
def test_headers_that_were_changed_are_refused(change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    with pytest.raises(EvergrantError, match="invalid_webhook"):
        verify_webhook(change(signed()), BODY, SECRET)


def test_another_body_another_secret_and_another_version_of_the_signature_are_refused() -> None:
    headers = signed()
    later = {**headers, "webhook-signature": headers["webhook-signature"].replace("v1,", "v2,")}
    for given, body, secret in (
        (headers, BODY + b" ", SECRET),
        (headers, BODY, OLD_SECRET),
        (later, BODY, SECRET),
    ):
        with pytest.raises(EvergrantError, match="no signature is of this secret") as refused:
            verify_webhook(given, body, secret)
        assert secret not in repr(refused.value)


@pytest.mark.parametrize("age", [310, -310])
def test_five_minutes_from_now_in_either_direction_it_is_refused(age: float) -> None:
    assert verify_webhook(signed(age=age * 0.9), BODY, SECRET) == EVENT
    with pytest.raises(EvergrantError, match="five minutes"):
        verify_webhook(signed(age=age), BODY, SECRET)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff"])
def test_what_is_signed_and_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(EvergrantError, match="not an event"):
        verify_webhook(signed(body), body, SECRET)


@pytest.mark.parametrize("secret", ["whsec_canary!", "canary"])
def test_a_secret_that_is_none_is_said_to_be_so_and_not_repeated(secret: Any) -> None:
    with pytest.raises(ValueError, match="takes whsec_") as refused:
        verify_webhook(signed(), BODY, secret)
    assert "canary" not in str(refused.value)
