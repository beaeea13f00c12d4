"""What an authorization server says of itself: RFC 8414, and OpenID Connect Discovery.

Rules:
- A document counts only if it names the issuer it was asked of, character by character (RFC 8414
  section 3.3): otherwise one server could give out another's endpoints.
- Its endpoints are https. A server on loopback may name others on loopback.
- A document is kept on disk. It is fetched again after an hour, and used for as long as no newer one comes:
  an issuer that is away stops no refresh.
- Nothing here is on the path of a refresh, and no worker waits for it.
"""

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit, urlunsplit

import structlog

if TYPE_CHECKING:
    from worker.adapters.transport import Transport

MAX_DOCUMENT_BYTES: Final = 256 * 1024
FRESH_SECONDS: Final = 3600.0
OLD_SECONDS: Final = 86_400.0
AGAIN_SECONDS: Final = 60.0  # after an issuer gave none
SUFFIXES: Final = ("oauth-authorization-server", "openid-configuration")

log = structlog.get_logger(__name__)


class DiscoveryError(Exception):
    """An issuer's document cannot be had or used; the message is one clause that says why."""


@dataclass(frozen=True, slots=True)
class IssuerMetadata:
    """What Evergrant uses of an issuer's document.

    Attributes:
        token_endpoint: where tokens are asked for.
        mtls_token_endpoint: the same for clients that prove themselves by a certificate (RFC 8705 section 5).
        revocation_endpoint: RFC 7009; `None` where the issuer names none.
        authorization_endpoint: where people sign in; `None` where the issuer names none.
        states_issuer: it says who it is when it sends a person back (RFC 9207 section 3).
        authentication_methods: at the token endpoint.
        scopes: `scopes_supported`; empty where the issuer does not say.
    """

    issuer: str
    token_endpoint: str
    mtls_token_endpoint: str | None
    revocation_endpoint: str | None
    authentication_methods: tuple[str, ...]
    scopes: frozenset[str]
    authorization_endpoint: str | None = None
    states_issuer: bool = False


def read_metadata(issuer: str, document: object) -> IssuerMetadata:
    """Check an issuer's document and read it.

    Args:
        issuer: whom it was asked of.
        document: the JSON that came.

    Raises:
        DiscoveryError: it is not this issuer's, or lacks what is needed.
    """
    if not isinstance(document, dict):
        raise DiscoveryError("its document is no JSON object")
    named = document.get("issuer")
    if named != issuer:
        raise DiscoveryError(f"its document names another issuer: {_shown(named)}")
    token_endpoint = _endpoint(issuer, document, "token_endpoint")
    if token_endpoint is None:
        raise DiscoveryError("its document names no token_endpoint")
    aliases = document.get("mtls_endpoint_aliases")
    methods = _words(document.get("token_endpoint_auth_methods_supported"))
    return IssuerMetadata(
        issuer=issuer,
        token_endpoint=token_endpoint,
        mtls_token_endpoint=_endpoint(issuer, aliases if isinstance(aliases, dict) else {}, "token_endpoint"),
        revocation_endpoint=_endpoint(issuer, document, "revocation_endpoint"),
        # RFC 8414 section 2: where it is left out, it is this one.
        authentication_methods=methods or ("client_secret_basic",),
        scopes=frozenset(_words(document.get("scopes_supported"))),
        authorization_endpoint=_endpoint(issuer, document, "authorization_endpoint"),
        states_issuer=document.get("authorization_response_iss_parameter_supported") is True,
    )


def locations(issuer: str) -> Iterator[str]:
    """Where an issuer's document may be: RFC 8414 section 3.1, then OpenID Connect Discovery section 4.

    For an issuer with a path the first goes before the path and the second after it; servers also mix them.
    """
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")
    before = [urlunsplit((*parts[:2], f"/.well-known/{suffix}{path}", "", "")) for suffix in SUFFIXES]
    after = [urlunsplit((*parts[:2], f"{path}/.well-known/{suffix}", "", "")) for suffix in SUFFIXES[::-1]]
    yield from dict.fromkeys([*before, *after])


class Issuers(Mapping[str, IssuerMetadata]):
    """The issuers of the settings whose documents are known, by their names.

    Args:
        issuers: all of the settings.
        directory: where documents are kept; made when the first one is.
        timeout_seconds: how long one issuer is asked.
        ca_file: private certificate authorities, beside the system's.
        now: Unix seconds.
    """

    def __init__(
        self,
        issuers: Collection[str],
        directory: Path,
        *,
        timeout_seconds: float,
        ca_file: Path | None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.problems: dict[str, str] = {}  # why an issuer's newest document could not be had
        self._issuers: list[str] = []
        self._has_new = asyncio.Event()
        self._directory = directory
        self._timeout_seconds = timeout_seconds
        self._ca_file = ca_file
        self._now = now
        self._known: dict[str, IssuerMetadata] = {}
        self._fetched_at: dict[str, float] = {}
        self.want(issuers)

    def __getitem__(self, issuer: str) -> IssuerMetadata:
        return self._known[issuer]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def want(self, issuers: Collection[str]) -> None:
        """Have the settings name these issuers from now on; a new one is recalled, and asked soon."""
        new = set(issuers) - set(self._issuers)
        for issuer in new:
            self._recall(issuer)
        self._issuers = sorted(set(issuers))
        if new:
            self._has_new.set()

    async def look_up(self, older_than_seconds: float) -> bool:
        """Fetch what is not known or was fetched longer ago, all at once; returns whether any changed."""
        wanted = [each for each in self._issuers if not self._is_known(each, older_than_seconds)]
        if not wanted:
            return False
        from worker.adapters.transport import Transport  # noqa: PLC0415 most deployments have no issuer

        transport = Transport(self._ca_file)
        try:
            changed = await asyncio.gather(*(self._renew(transport, issuer) for issuer in wanted))
        finally:
            await transport.aclose()
        return any(changed)

    async def keep(self, changed: Callable[[], None]) -> None:
        """Fetch documents again as they grow old, until cancelled; `changed` is called when one is new."""
        while True:
            self._has_new.clear()
            if await self.look_up(FRESH_SECONDS):
                changed()
            with suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_SECONDS):
                    await self._has_new.wait()

    def _is_known(self, issuer: str, at_most_seconds: float) -> bool:
        return issuer in self._known and 0 <= self._now() - self._fetched_at[issuer] < at_most_seconds

    async def _renew(self, transport: "Transport", issuer: str) -> bool:
        try:
            document = await self._fetch(transport, issuer)
        except DiscoveryError as problem:
            self.problems[issuer] = str(problem)
            log.warning("issuer.not_discovered", issuer=issuer, problem=str(problem))
            return False
        before = self._known.get(issuer)
        self.problems.pop(issuer, None)
        self._known[issuer] = read_metadata(issuer, document)
        self._fetched_at[issuer] = self._now()
        self._remember(issuer, document)
        return self._known[issuer] != before

    async def _fetch(self, transport: "Transport", issuer: str) -> Any:
        """The first document that is the issuer's own.

        Raises:
            DiscoveryError: there is none. It says why of the first place that answered with more than a 404.
        """
        found: DiscoveryError | None = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                for location in locations(issuer):
                    try:
                        document = await _get_json(transport, location)
                        read_metadata(issuer, document)
                    except _NothingThereError:
                        continue
                    except DiscoveryError as problem:
                        found = found or problem
                        continue
                    return document
        except TimeoutError:
            raise DiscoveryError(f"does not answer within {self._timeout_seconds:g} s") from None
        raise found or DiscoveryError(f"has no document at {', '.join(locations(issuer))}")

    def _file(self, issuer: str) -> Path:
        return self._directory / f"{hashlib.sha256(issuer.encode()).hexdigest()[:32]}.json"

    def _recall(self, issuer: str) -> None:
        with suppress(OSError, ValueError, DiscoveryError, KeyError, TypeError, AttributeError):
            kept = json.loads(self._file(issuer).read_bytes())
            self._known[issuer] = read_metadata(issuer, kept["document"])
            self._fetched_at[issuer] = float(kept["fetched_at"])

    def _remember(self, issuer: str, document: object) -> None:
        """Keep a document for the next start; a full disk costs that start a request."""
        file = self._file(issuer)
        unfinished = file.with_suffix(f".{os.getpid()}")  # each process its own
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            unfinished.write_text(json.dumps({"fetched_at": self._fetched_at[issuer], "document": document}))
            unfinished.replace(file)
        except OSError as problem:
            log.warning("issuer.not_kept", issuer=issuer, problem=problem.strerror)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


class _NothingThereError(DiscoveryError):
    """The server has no document at this place."""


async def _get_json(transport: "Transport", location: str) -> Any:
    import httpx  # noqa: PLC0415 see look_up

    headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "evergrant"}
    request = httpx.Request("GET", location, headers=headers, extensions={"target": location})
    try:
        response = await transport.handle_async_request(request)
    except (httpx.TransportError, OSError, ValueError) as problem:
        raise DiscoveryError(f"cannot be reached: {_why(problem.__cause__ or problem)}") from None
    try:
        if response.has_redirect_location:
            raise DiscoveryError(f"redirects from {location}: set ISSUER to where it leads")
        if response.status_code in {404, 405, 410}:
            raise _NothingThereError("has no document")
        if not response.is_success:
            raise DiscoveryError(f"answered {response.status_code} at {location}")
        body = await _read_capped(response)
    finally:
        with suppress(Exception):
            await response.aclose()
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise DiscoveryError(f"answered with no JSON at {location}") from None


def _why(problem: BaseException) -> str:
    """What went wrong on the wire, without the server's own words."""
    cause = getattr(problem, "os_error", problem)
    number = getattr(cause, "errno", None)
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return getattr(cause, "strerror", None) or type(cause).__name__


async def _read_capped(response: Any) -> bytes:
    import httpx  # noqa: PLC0415 see look_up

    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise DiscoveryError(f"sent a document of more than {MAX_DOCUMENT_BYTES // 1024} KiB")
    except httpx.HTTPError:
        raise DiscoveryError("broke off in the middle of its document") from None
    return bytes(body)


def _endpoint(issuer: str, document: Mapping[str, Any], name: str) -> str | None:
    url = document.get(name)
    if url is None:
        return None
    if not isinstance(url, str) or not re.fullmatch(r"https?://[!-~]+", url) or "#" in url:
        raise DiscoveryError(f"its document's {name} is no URL")
    parts = _parts(url)
    if parts is None or not parts.hostname or parts.username or parts.password:
        raise DiscoveryError(f"its document's {name} is no URL")
    if parts.scheme == "http" and not (_is_loopback(url) and _is_loopback(issuer)):
        raise DiscoveryError(f"its document's {name} is not https: {_shown(url)}")
    return url


def _parts(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _shown(value: object) -> str:
    """A name from a document, for one line."""
    text = value if isinstance(value, str) and value.isprintable() else "none that can be shown"
    return text[:200]
