"""Which fault strikes the next token request, and the reply that it puts in the place of the server's.

Rules:
    - Several faults may be on at once. All delays that apply add up; of the other faults the one
      that was switched on first strikes.
    - A fault may be limited to the next `times` requests, to one grant, to one grant type, or to a
      share of the requests. The share is drawn from the fault's own generator, so that a seed replays.
    - A code exchange belongs to no grant yet: `grant_type` says that a fault is for it.
    - `acts` says whether the server does what the request asks before it misbehaves.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final

from worker.sandbox.inputs import InputError
from worker.sandbox.shapes import SHAPES, buried, shaped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from worker.sandbox.inputs import Fields

# A client that follows the redirect sends its secret to the wrong place; the judge counts it.
REDIRECT_PATH: Final = "/redirected"

_GRANT_TYPES: Final = ("authorization_code", "refresh_token", "client_credentials")
_MEBIBYTE = 1024 * 1024
_HTML = {"Content-Type": "text/html; charset=utf-8"}
_JSON = {"Content-Type": "application/json"}


def _latency(fields: Fields) -> dict[str, Any]:
    return {"ms": fields.number("ms", 100), "jitter_ms": fields.number("jitter_ms", 0)}


def _status(fields: Fields) -> dict[str, Any]:
    status = fields.whole("status", 503, least=500)
    if status > 599:  # noqa: PLR2004 - where the class of server errors ends
        message = "status must be from 500 to 599"
        raise InputError(message)
    return {"status": status, **_acting(fields)}


def _refuse(fields: Fields) -> dict[str, Any]:
    status = fields.whole("status", 400, least=400)
    if status > 499:  # noqa: PLR2004 - where the class of client errors ends
        message = "status must be from 400 to 499"
        raise InputError(message)
    return {"status": status, "code": fields.text("code") if fields.holds("code") else ""}


def _too_many_requests(fields: Fields) -> dict[str, Any]:
    return {
        "retry_after": fields.whole("retry_after", 1),
        "form": fields.choice("form", ("seconds", "http_date", "absent"), "seconds"),
    }


def _huge_body(fields: Fields) -> dict[str, Any]:
    return {"bytes": fields.whole("bytes", 16 * _MEBIBYTE, least=1), **_acting(fields)}


def _unreadable(fields: Fields) -> dict[str, Any]:
    return {"depth": fields.whole("depth", 20_000, least=1), "acts": True}


def _shape(fields: Fields) -> dict[str, Any]:
    return {"shape": fields.choice("shape", tuple(SHAPES)), "acts": True}


def _outage(fields: Fields) -> dict[str, Any]:
    for name, things in (("grant", "grants"), ("grant_type", "grant types")):
        if fields.holds(name):
            message = f"an outage does not read requests, so it cannot tell {things} apart"
            raise InputError(message)
    return {"form": fields.choice("form", ("close", "503"), "close")}


def _acting(fields: Fields) -> dict[str, Any]:
    return {"acts": fields.flag("acts", default=False)}


def _always_acting(_: Fields) -> dict[str, Any]:
    return {"acts": True}


def _bare(_: Fields) -> dict[str, Any]:
    return {}


_KINDS: Final[Mapping[str, Callable[[Fields], dict[str, Any]]]] = {
    "latency": _latency,
    "status": _status,
    "refuse": _refuse,
    "too_many_requests": _too_many_requests,
    "drop_before": _bare,
    "drop_after": _always_acting,
    "not_json": _acting,
    "empty_200": _acting,
    "buddy_errors_200": _acting,
    "huge_body": _huge_body,
    "unreadable": _unreadable,
    "shape": _shape,
    "redirect": _bare,
    "hang": _acting,
    "outage": _outage,
}


@dataclass(slots=True)
class Fault:
    """One fault that is switched on.

    `options` are those of its kind; `times` is how many requests it has left, None for no limit.
    """

    kind: str
    options: dict[str, Any]
    times: int | None
    grant: str | None
    grant_type: str | None
    probability: float
    seed: int
    dice: random.Random = field(repr=False)

    @property
    def acts(self) -> bool:
        """Whether the server does what the request asks before it misbehaves."""
        return bool(self.options.get("acts", False))

    @property
    def distorts(self) -> bool:
        """Whether it gives the tokens that the server issued, in another form; a refusal stays as it is."""
        return self.kind in ("shape", "unreadable")

    def view(self) -> dict[str, Any]:
        """Return the fault as control routes show it."""
        return {
            "kind": self.kind,
            **self.options,
            "times": self.times,
            "grant": self.grant,
            "grant_type": self.grant_type,
            "probability": self.probability,
            "seed": self.seed,
        }

    def strikes(self, grant_id: str | None, grant_type: str | None) -> bool:
        """Decide whether this fault strikes a request, and count it if it does."""
        if self.times == 0 or self.grant not in (None, grant_id) or self.grant_type not in (None, grant_type):
            return False
        if self.probability < 1 and self.dice.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True


def read_fault(fields: Fields) -> Fault:
    """Read the body of POST /control/faults."""
    kind = fields.choice("kind", tuple(_KINDS))
    options = _KINDS[kind](fields)
    seed = fields.whole("seed", 0)
    fault = Fault(
        kind=kind,
        options=options,
        times=fields.whole("times", least=1) if fields.holds("times") else None,
        grant=fields.text("grant") if fields.holds("grant") else None,
        grant_type=fields.choice("grant_type", _GRANT_TYPES) if fields.holds("grant_type") else None,
        probability=fields.number("probability", 1, most=1),
        seed=seed,
        dice=random.Random(seed),  # noqa: S311 - a seed must replay
    )
    fields.finish()
    return fault


class FaultBoard:
    """The faults that are on, oldest first."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Switch a fault on."""
        self._faults.append(fault)

    def clear(self) -> None:
        """Switch every fault off."""
        self._faults.clear()

    def active(self) -> list[dict[str, Any]]:
        """Show the faults that can still strike."""
        return [fault.view() for fault in self._faults if fault.times != 0]

    def next_outage(self) -> Fault | None:
        """Return the outage that strikes a request before its body is read, if any."""
        outages = (fault for fault in self._faults if fault.kind == "outage")
        return next((fault for fault in outages if fault.strikes(None, None)), None)

    def next_delay(self, grant_id: str | None, grant_type: str) -> float:
        """Return by how many seconds the reply is late."""
        delays = (fault for fault in self._faults if fault.kind == "latency")
        return sum(_seconds_late(fault) for fault in delays if fault.strikes(grant_id, grant_type))

    def next_fault(self, grant_id: str | None, grant_type: str) -> Fault | None:
        """Return the fault that replaces the reply to a request, if any."""
        spoilers = (fault for fault in self._faults if fault.kind not in ("latency", "outage"))
        return next((fault for fault in spoilers if fault.strikes(grant_id, grant_type)), None)


def _seconds_late(fault: Fault) -> float:
    jitter: float = fault.options["jitter_ms"] * fault.dice.random()
    milliseconds: float = fault.options["ms"] + jitter
    return milliseconds / 1000


@dataclass(frozen=True, slots=True)
class SpoiledReply:
    """The reply that a fault sends instead of the server's own."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


def spoiled_reply(fault: Fault, now: float) -> SpoiledReply:
    """Return the reply of a fault that replies; drops and hangs have none."""
    match fault.kind:
        case "status":
            return SpoiledReply(fault.options["status"], _HTML, b"<h1>Something went wrong</h1>")
        case "refuse":
            code = fault.options["code"]  # without one the server refuses and does not say why
            return SpoiledReply(fault.options["status"], _JSON, _error(code) if code else b"")
        case "too_many_requests":
            return SpoiledReply(429, _retry_after(fault, now))
        case "not_json":
            return SpoiledReply(200, _HTML, b"<!doctype html><title>Maintenance</title>")
        case "empty_200":
            return SpoiledReply(200, _JSON)
        case "buddy_errors_200":
            errors = {"errors": [{"message": "Something went wrong"}]}
            return SpoiledReply(200, _JSON, json.dumps(errors).encode())
        case "redirect":
            return SpoiledReply(302, {"Location": REDIRECT_PATH})
        case kind:
            message = f"{kind} has no reply"
            raise ValueError(message)


def _error(code: str) -> bytes:
    return json.dumps({"error": code}).encode()


def distorted(fault: Fault, body: Mapping[str, Any]) -> bytes:
    """The server's own tokens as a fault that distorts gives them: all bytes of a response."""
    if fault.kind == "shape":
        return shaped(fault.options["shape"], body)
    return buried(body, fault.options["depth"])


def _retry_after(fault: Fault, now: float) -> dict[str, str]:
    seconds = fault.options["retry_after"]
    match fault.options["form"]:
        case "seconds":
            return {"Retry-After": str(seconds)}
        case "http_date":
            return {"Retry-After": formatdate(now + seconds, usegmt=True)}
    return {}
