"""One request at the token or the revocation endpoint, read from its headers and body.

Reading never raises. A request that breaks the rules of RFC 6749 section 3.2 or RFC 7009 section 2.1 is
passed on with its `problem`, which the issuer replies to.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Mapping

_FORM = "application/x-www-form-urlencoded"
MAY_REPEAT = frozenset({"resource", "audience"})  # RFC 8707 section 2, RFC 8693 section 2.1


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """What a client asked for. A parameter that was not sent is an empty string."""

    grant_type: str = ""
    refresh_token: str = ""
    client_id: str = ""
    client_secret: str = ""
    scope: str = ""
    basic: tuple[str, str] | None = None
    """Id and secret of a Basic header as they stand in it; empty ones, never right, if it is unreadable."""
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Every parameter of the form, with all its values."""
    url: str = ""
    """Where the client sent it, as the client names the server."""
    certificate_name: str = ""
    """The common name of the certificate that the client's connection was made with."""
    problem: str | None = None
    token: str = ""
    """What is to be revoked."""

    def parameter(self, name: str) -> str:
        """Return a parameter's first value."""
        return self.parameters.get(name, ("",))[0]

    @property
    def basic_decoded(self) -> tuple[str, str] | None:
        """The same as `basic`, decoded as RFC 6749 section 2.3.1 asks."""
        return None if self.basic is None else (unquote_plus(self.basic[0]), unquote_plus(self.basic[1]))

    @property
    def has_secret(self) -> bool:
        """Whether there is a secret in it, or an assertion."""
        return self.basic is not None or bool({"client_secret", "client_assertion"} & self.parameters.keys())


def read_token_request(
    headers: Mapping[str, str], body: bytes, *, url: str = "", certificate_name: str = ""
) -> ReceivedRequest:
    """Read a token request; `headers` must ignore the case of names."""
    return _read(headers, body, needs="grant_type", url=url, certificate_name=certificate_name)


def read_revocation_request(
    headers: Mapping[str, str], body: bytes, *, url: str = "", certificate_name: str = ""
) -> ReceivedRequest:
    """Read a revocation request; `headers` must ignore the case of names."""
    return _read(headers, body, needs="token", url=url, certificate_name=certificate_name)


def _read(
    headers: Mapping[str, str], body: bytes, *, needs: str, url: str, certificate_name: str
) -> ReceivedRequest:
    content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != _FORM:
        return ReceivedRequest(problem=f"the body must be {_FORM}")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        return ReceivedRequest(problem="the body is not UTF-8 form data")
    fields = dict(pairs)
    client_id, client_secret = fields.get("client_id", ""), fields.get("client_secret", "")
    basic = _basic_credentials(headers.get("authorization", ""))
    problem = _problem(pairs, needs, both_ways=basic is not None and bool(client_secret))
    values: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        values[name].append(value)
    return ReceivedRequest(
        grant_type=fields.get("grant_type", ""),
        refresh_token=fields.get("refresh_token", ""),
        token=fields.get("token", ""),
        client_id=client_id,
        client_secret=client_secret,
        scope=fields.get("scope", ""),
        basic=basic,
        parameters={name: tuple(each) for name, each in values.items()},
        url=url,
        certificate_name=certificate_name,
        problem=problem,
    )


def _problem(pairs: list[tuple[str, str]], needs: str, *, both_ways: bool) -> str | None:
    counts = Counter(name for name, _ in pairs if name not in MAY_REPEAT)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        return f"{repeated[0]} was sent more than once"
    if both_ways:
        return "credentials were sent both in the header and in the body"
    if not dict(pairs).get(needs):
        return f"{needs} is missing"
    return None


def _basic_credentials(header: str) -> tuple[str, str] | None:
    """Return id and secret of a Basic header as they stand there, or empty ones if it is unreadable."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    client_id, _, client_secret = text.partition(":")
    return client_id, client_secret
