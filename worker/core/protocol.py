"""Token requests, and what any reply to one means.

RFC 6749 sections 4.1.3, 4.4, 5 and 6, with what real servers do beside it. Rules:
- Any status with any bytes gives an outcome: no function here raises because of what a server sent.
- A flaw beside the tokens never costs the tokens: not in a lifetime, a scope or the JSON of another field.
- A 2xx whose tokens cannot be read is kept as `Unread`: the server has most likely rotated.
- A reply means `Rejected` only where the server says so in words. Anything else leaves the grant alone.
- An outcome repeats a server's text only if it is one harmless word: other text could hold a secret.
- No provider is named here: where one departs from the RFC, its `Provider` says how.

The bytes are read in `documents.py`, the tokens are found in `issued.py`, the words in `refusals.py` and the
waits in `waits.py`.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self
from urllib.parse import unquote_plus

from worker.core import lifetimes
from worker.core.documents import Document, read_document
from worker.core.issued import Flaw, Issued, holds_a_token, issued_in
from worker.core.outcomes import (
    ClientRejected,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.providers import Client, GrantType, Provider
from worker.core.refusals import AMBIGUOUS, CLIENT_REJECTED, Said, said_in
from worker.core.waits import asked_wait_ms, limit_wait_ms

UNRECOGNIZED = "unrecognized_error_code"

# A redirect is a wrong URL in the settings, not an outage: it is not followed, for it would get the tokens.
REDIRECT = "redirect_"

# Token types (RFC 6749 section 11.1) with which a token alone is worth nothing: each call needs a proof by a
# key that Evergrant does not have. Every other word is used as Bearer (RFC 6750), such as Slack's `bot`.
SENDER_CONSTRAINED: Mapping[str, str] = {"dpop": "DPoP", "pop": "PoP", "mac": "MAC", "n_a": "N_A"}

_is_scope = re.compile(r"[\x20-\x7e]{1,4096}").fullmatch


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One form-encoded POST to a token endpoint. It holds secrets, so its `repr` shows the URL only.

    Attributes:
        url: sent byte for byte.
        parameters: sent after the form; a name may repeat.
        tls: the adapters' own: what the connection is made with, where the client proves itself by it.
    """

    url: str
    form: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    parameters: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    tls: object = field(default=None, repr=False)

    def adding(self, fields: Mapping[str, str]) -> Self:
        """A copy with these fields in its form."""
        return replace(self, form={**self.form, **fields})

    def with_header(self, name: str, value: str) -> Self:
        """A copy with this header."""
        return replace(self, headers={**self.headers, name: value})

    def over(self, tls: object) -> Self:
        """A copy that is sent over a connection made with `tls`."""
        return replace(self, tls=tls)


def refresh_request(client: Client, refresh_token: str) -> TokenRequest:
    """RFC 6749 section 6, not yet authenticated; `scope` only from the client's parameters.

    Without it the scope stays as granted.
    """
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token}
    return TokenRequest(client.token_url, form, headers_of(client), client.parameters)


def code_request(client: Client, code: str, *, redirect_uri: str, verifier: str) -> TokenRequest:
    """RFC 6749 section 4.1.3 with the PKCE verifier of RFC 7636 section 4.5, not yet authenticated."""
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
    }
    # The scope was asked for where the person consented.
    parameters = tuple(each for each in client.parameters if each[0] != "scope")
    return TokenRequest(client.token_url, form, headers_of(client), parameters)


def client_credentials_request(client: Client, *, with_scope: bool = True) -> TokenRequest:
    """RFC 6749 section 4.4, not yet authenticated; scopes are divided by spaces.

    A `scope` of the client's parameters is sent in place of its scopes.
    """
    form = {"grant_type": "client_credentials"}
    parameters = client.parameters
    if not with_scope:
        parameters = tuple(each for each in parameters if each[0] != "scope")
    elif client.scopes and not client.asked_for("scope"):
        form["scope"] = " ".join(client.scopes)
    return TokenRequest(client.token_url, form, headers_of(client), parameters)


def headers_of(client: Client) -> Mapping[str, str]:
    """What every request of a client has, to whichever endpoint."""
    return {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": client.user_agent}


def read_reply(reply: Reply, client: Client, now: int, sent: TokenRequest | None = None) -> Outcome:
    """What a token endpoint's reply means; never raises.

    Args:
        reply: any status, any headers, any bytes.
        client: whose request it answers.
        now: Unix milliseconds, for headers that name an instant.
        sent: the request, whose secrets no outcome may repeat.
    """
    document = read_document(reply.body, is_whole=reply.is_whole)
    if 200 <= reply.status < 300:
        return _read_success(reply, document, client, now, sent)
    asked_ms = asked_wait_ms(reply.headers, document, now)
    if reply.status in {408, 429}:
        wait_ms = limit_wait_ms(reply.headers, client.provider.reset_headers, now)
        return Unavailable(f"http_{reply.status}", wait_ms if asked_ms is None else asked_ms)
    refusal = _refusal(said_in(document), client.provider, asked_ms)
    if reply.status >= 500:
        return _read_server_fault(reply, document, refusal, asked_ms)
    return refusal or _read_unknown_refusal(reply, document, client, asked_ms, sent)


def _read_success(
    reply: Reply, document: Document, client: Client, now: int, sent: TokenRequest | None
) -> Outcome:
    issued = _issued(document, client)
    if isinstance(issued, Flaw):
        return _read_nothing_issued(reply, document, issued, client, now, sent)
    fields = issued.fields
    return Refreshed(
        access_token=issued.access_token,
        refresh_token=issued.refresh_token,
        expires_in_ms=lifetimes.access_lifetime(fields, now),
        refresh_expires_in_ms=lifetimes.refresh_lifetime(fields, now),
        scope=_scope(fields.get("scope")),
        audience=_audience(fields),
        token_type=sender_constrained(fields.get("token_type")),
    )


def _issued(document: Document, client: Client) -> Issued | Flaw:
    issued = issued_in(document, wants_refresh_token=client.grant_type is GrantType.REFRESH_TOKEN)
    if isinstance(issued, Issued) and client.provider.errors_void_tokens and issued.fields.get("errors"):
        return Flaw.WITH_ERRORS
    return issued


def _read_nothing_issued(
    reply: Reply, document: Document, flaw: Flaw, client: Client, now: int, sent: TokenRequest | None
) -> Outcome:
    """A 2xx without tokens that can be taken: a refusal if it says so, else kept for somebody to read."""
    if flaw is Flaw.WITHOUT_TOKEN or flaw is Flaw.NO_DOCUMENT:
        asked_ms = asked_wait_ms(reply.headers, document, now)
        said = said_in(document)
        refusal = _refusal(said, client.provider, asked_ms)
        if refusal is not None:
            return refusal
        if _names_an_error(document) and not holds_a_token(document):
            return _unavailable(said.harmless(_secrets(sent, client)) or UNRECOGNIZED, asked_ms)
    if not reply.is_whole:
        flaw = Flaw.CUT_OFF
    elif not reply.body.strip():
        flaw = Flaw.EMPTY
    return Unread(f"http_{reply.status}_{flaw}", reply)


def _names_an_error(document: Document) -> bool:
    """Whether a document has the field that RFC 6749 section 5.2 has for an error."""
    top = document.values[0] if len(document.values) == 1 else None
    error = top.get("error") if isinstance(top, dict) else None
    return isinstance(error, str) and bool(error.strip())


def _refusal(said: Said, provider: Provider, asked_ms: int | None) -> Outcome | None:
    """What a reply says in words that are known; `None` where it has none."""
    code = said.known(provider.rejected_codes)
    if code is None:
        return None
    if code == "invalid_grant" or code in provider.rejected_codes:
        return Rejected(code)
    if code in CLIENT_REJECTED:
        return ClientRejected(code)
    if code == AMBIGUOUS:
        return Rejected(code, ambiguous=True)
    return Unavailable(code, asked_ms)


def _read_server_fault(
    reply: Reply, document: Document, refusal: Outcome | None, asked_ms: int | None
) -> Outcome:
    if isinstance(refusal, ClientRejected) or (isinstance(refusal, Rejected) and not refusal.ambiguous):
        return refusal
    if isinstance(issued_in(document), Issued):
        return Unread(f"http_{reply.status}_with_token", reply)
    detail = f"http_{reply.status}"
    if reply.status == 503 or isinstance(refusal, Unavailable) or asked_ms is not None:
        # The fault may lie in front of the server or behind the rotation: the reply does not say.
        return Unavailable(detail, asked_ms, may_have_acted=True)
    return Unknown(detail)


def _read_unknown_refusal(
    reply: Reply, document: Document, client: Client, asked_ms: int | None, sent: TokenRequest | None
) -> Outcome:
    """A 3xx or 4xx in no word that is known."""
    status, provider = reply.status, client.provider
    if isinstance(issued_in(document), Issued):
        return Unread(f"http_{status}_with_token", reply)
    if not _names_an_error(document):
        if provider.ambiguous_message is not None and (status == 401 or _says(document, provider)):
            return Rejected(f"http_{status}", ambiguous=True)
        if status == 401:
            return ClientRejected("http_401")
    if 300 <= status < 400:
        return ClientRejected(f"{REDIRECT}{status}")
    said = said_in(document)
    unnamed = UNRECOGNIZED if said.codes else f"http_{status}"
    return _unavailable(said.harmless(_secrets(sent, client)) or unnamed, asked_ms)


def _unavailable(detail: str, asked_ms: int | None) -> Unavailable:
    return Unavailable(detail, asked_ms, refused=asked_ms is None)


def _says(document: Document, provider: Provider) -> bool:
    """Whether the document's list of errors holds the provider's ambiguous message."""
    top = document.values[0] if document.values else None
    errors = top.get("errors") if isinstance(top, dict) else None
    if not isinstance(errors, list):
        return False
    return any(
        isinstance(each, dict) and each.get("message") == provider.ambiguous_message for each in errors
    )


def _secrets(sent: TokenRequest | None, client: Client) -> list[str]:
    """What a request holds that must not be repeated, as it was before it was encoded."""
    if sent is None:
        return []
    public = {"grant_type", "scope", "client_id", *(name for name, _ in client.parameters)}
    secrets = [value for name, value in sent.form.items() if name not in public]
    scheme, _, proof = sent.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":
        pair = b64decode(proof).decode("utf-8", "replace")
        secrets += [proof, pair, unquote_plus(pair.partition(":")[2])]
    return secrets


def _token_type(value: object) -> str | None:
    """Only a name that can be printed: what else stands there may be anything."""
    if value == "Bearer" or not isinstance(value, str) or value.strip().casefold() in {"", "bearer"}:
        return None
    return value.strip() if re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", value.strip()) else "unrecognized"


def _scope(value: object) -> str | None:
    if isinstance(value, str) and _is_scope(value):
        return value
    return None


def _audience(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Servers that name the audience name it like the parameter it was asked by."""
    named = document.get("audience") or document.get("resource")
    values = [named] if isinstance(named, str) else named
    if not isinstance(values, list):
        return None
    return tuple(value for value in values if isinstance(value, str) and _scope(value)) or None


def sender_constrained(token_type: object) -> str | None:
    """The registered name of a type of token that needs a proof with each call; `None` for any other."""
    return SENDER_CONSTRAINED.get(token_type.strip().lower()) if isinstance(token_type, str) else None
