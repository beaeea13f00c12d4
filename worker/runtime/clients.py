"""The configured clients, read again when their secrets or the clients file may have changed."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from config import ClientSettings, Settings, SettingsError, load_settings, read_file_clients
from config.clients_file import ClientsFileError, Watch
from config.forms import read_secret
from config.registration import DEFAULT_AUTHENTICATION
from config.settings import FileClients, variable_of
from worker.adapters.credentials import (
    ClientSecretBasic,
    ClientSecretBasicRaw,
    ClientSecretPost,
    PublicClient,
)
from worker.adapters.discovery import IssuerMetadata, Issuers
from worker.core import providers
from worker.core.outcomes import NoLifetime
from worker.core.ports import ClientCredentials
from worker.core.providers import Client, GrantType, Provider
from worker.core.refusals import canonical_code

# The methods of an issuer's list that each kind of settings can serve, by preference.
BY_SECRET: Final[tuple[str, ...]] = ("client_secret_post", "client_secret_basic", "client_secret_jwt")
BY_CERTIFICATE: Final = ("tls_client_auth", "self_signed_tls_client_auth")
BY_KEY: Final = ("private_key_jwt",)
BY_NOTHING: Final = ("none",)


Called = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Changes:
    """How many clients were added, changed and removed at once."""

    added: int
    changed: int
    removed: int


class NotDiscoveredError(Exception):
    """A client's endpoints are not known: its issuer has not said them; the message is one line."""


class FileWatch:
    """The settings, with the clients file read again only when it has changed.

    Args:
        settings: as they were read at start.
    """

    def __init__(self, settings: Settings) -> None:
        self._known = settings.from_file
        self._watch = None if self._known is None else Watch(self._known.path, self._known.version)

    def settings_now(self) -> Settings:
        """All sources as they are now.

        Raises:
            SettingsError: one of them cannot be read or is wrong.
        """
        return load_settings(self._newest() or self._known)

    def settings_if_changed(self) -> Settings | None:
        """All sources as they are now, if the clients file has changed.

        Raises:
            SettingsError: one of them cannot be read or is wrong.
        """
        newest = self._newest()
        return None if newest is None else load_settings(newest)

    def take(self, settings: Settings) -> None:
        """Count the file as known in which these settings were found."""
        self._known = settings.from_file
        if self._watch is not None and self._known is not None:
            self._watch.take(self._known.version)

    def _newest(self) -> FileClients | None:
        if self._watch is None or self._known is None:
            return None
        try:
            has_changed = self._watch.has_changed()
        except ClientsFileError as problem:
            raise SettingsError(str(problem)) from None
        return read_file_clients(self._known.path, self._known) if has_changed else None


class ConfiguredClients:
    """The clients of the settings, each as it was read last.

    The clients file is looked at whenever a client's settings may have changed, and by whoever calls `take`
    in between. Whatever cannot be read leaves all clients as they were.

    A client whose issuer has not been heard yet is not among them; `not_discovered` says why.

    Args:
        settings: the deployment's.
        issuers: what the issuers say of themselves, as it changes.

    Raises:
        SettingsError: a key, a secret or a certificate cannot be used.
    """

    def __init__(self, settings: Settings, issuers: Issuers | None = None) -> None:
        self._settings = settings
        self._issuers = issuers
        self._file = FileWatch(settings)
        self._clients: Mapping[str, Client] = {}
        self._removed: dict[str, Client] = {}
        self._generations: dict[str, int] = {}
        self.not_discovered: dict[str, str] = {}
        self._put(self._made(settings, settings.clients))

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def __contains__(self, name: object) -> bool:
        return name in self._clients

    def names(self) -> Collection[str]:
        """The names of the clients that are configured now."""
        return self._clients.keys()

    def get(self, name: str, generation: int) -> Client:
        """The client as it is configured, read again when `generation` has grown.

        One that was removed since is as it was: what is under way ends in order.

        Raises:
            KeyError: no client has that name.
        """
        if generation > self._generations.get(name, 0):
            if self._read(name):
                self._generations[name] = generation
        elif name not in self._clients:
            with suppress(SettingsError):  # said by whoever looks at the file from time to time
                if (settings := self.read_file()) is not None:
                    self.take(settings)
        return self._known(name)

    def reread(self, name: str) -> Client:
        """The client as its source has it now; as it was where the source cannot be read.

        Raises:
            KeyError: no client has that name.
        """
        self._read(name)
        return self._known(name)

    def heed_issuers(self) -> None:
        """Make every client anew by what the issuers say now; one that cannot be made stays as it was."""
        made: dict[str, Client] = {}
        for name, client in self._settings.clients.items():
            if client.issuer is not None:
                with suppress(SettingsError):  # a key that is being replaced is read at the next refusal
                    made |= self._made(self._settings, [name])
        self._put(made)

    def read_file(self) -> Settings | None:
        """The settings with the clients file as it is now; `None` where it has not changed.

        Reads and validates, which takes long for thousands of clients, and changes nothing: it may run in
        another thread.

        Raises:
            SettingsError: the file cannot be read or is wrong.
        """
        return self._file.settings_if_changed()

    def take(self, settings: Settings) -> Changes:
        """Have these settings' clients from now on: all of them, or none.

        Raises:
            SettingsError: a key, a secret or a certificate of a changed client cannot be used.
        """
        before = self._settings.clients
        changed = [
            name
            for name, client in settings.clients.items()
            if (known := before.get(name)) is not client and known != client
        ]
        removed = before.keys() - settings.clients.keys()
        if self._issuers is not None:
            self._issuers.want({each.issuer for each in settings.clients.values() if each.issuer is not None})
        self._put(self._made(settings, changed))
        self._removed |= {name: self._clients[name] for name in removed if name in self._clients}
        for name in removed:
            self.not_discovered.pop(name, None)
        self._clients = {name: client for name, client in self._clients.items() if name not in removed}
        self._settings = settings
        self._file.take(settings)
        added = settings.clients.keys() - before.keys()
        return Changes(added=len(added), changed=len(changed) - len(added), removed=len(removed))

    def _known(self, name: str) -> Client:
        return self._clients[name] if name in self._clients else self._removed[name]

    def _read(self, name: str) -> bool:
        """Read the settings again, and one client's secrets; returns whether they could be read."""
        try:
            settings = self._file.settings_now()
            if name in settings.clients:
                self._put(self._made(settings, [name]))  # its secrets may have changed where they are
            self.take(settings)
        except SettingsError:
            return False
        return name not in self.not_discovered

    def _made(self, settings: Settings, names: Iterable[str]) -> dict[str, Client]:
        """These clients of the settings, all or none of them, without those that an issuer holds up."""
        made: dict[str, Client] = {}
        held_up: dict[str, str] = {}
        for name in names:
            client, called = settings.clients[name], partial(settings.name_of, name)
            try:
                metadata = self._metadata(client)
                made[name] = client_of(
                    name,
                    client,
                    ca_file=settings.ca_file,
                    metadata=metadata,
                    called=called,
                    reconnect_url=settings.reconnect_url,
                )
            except NotDiscoveredError as problem:
                held_up[name] = str(problem)
        self.not_discovered |= held_up
        return made

    def _put(self, made: Mapping[str, Client]) -> None:
        for name in made:
            self.not_discovered.pop(name, None)
            self._removed.pop(name, None)
        self._clients = {**self._clients, **made}  # a new one: a sweep may be walking through the old one

    def _metadata(self, client: ClientSettings) -> IssuerMetadata | None:
        if client.issuer is None or self._issuers is None:
            return None
        metadata = self._issuers.get(client.issuer)
        if metadata is None:
            problem = self._issuers.problems.get(client.issuer, "has not been asked yet")
            raise NotDiscoveredError(f"its issuer {client.issuer} {problem}")
        return metadata


def check_clients(settings: Settings) -> None:
    """Read every secret file, key and certificate once: a wrong one is told at start, whatever issuers say.

    Raises:
        SettingsError: one of them cannot be used.
    """
    for name, client in settings.clients.items():
        called = partial(settings.name_of, name)
        if client.certificate_file is not None and client.authentication != "private_key_jwt":
            _certificate(client, settings.ca_file, called)
        elif client.private_key_file is not None:
            _private_key(client, client.issuer or "", called)
        else:
            list(_secrets(client, called))


def scope_warnings(settings: Settings) -> list[str]:
    """A line for each client that asks for scopes which nobody documents: others may exist."""
    warnings = []
    for name, client in settings.clients.items():
        if unknown := _provider_of(client, None).unknown_among(client.scopes):
            called = settings.name_of(name, "scopes")
            warnings.append(f"{called}: scopes that nobody documents: {', '.join(unknown)}")
    return warnings


def client_of(
    name: str,
    settings: ClientSettings,
    *,
    ca_file: Path | None = None,
    metadata: IssuerMetadata | None = None,
    called: Called | None = None,
    reconnect_url: str | None = None,
) -> Client:
    """A client as the core knows it.

    Args:
        name: what grants call it.
        settings: its own.
        ca_file: private certificate authorities, beside the system's.
        metadata: its issuer's; `None` where it has no issuer or is not known.
        called: what its fields are called in an error; `None` for the names of variables.
        reconnect_url: the deployment's template of the page on which a person connects again.

    Raises:
        SettingsError: its key, secret or certificate cannot be used.
        NotDiscoveredError: it has an issuer, and that has not said what is needed.
    """
    if settings.issuer is not None and metadata is None:
        raise NotDiscoveredError(f"its issuer {settings.issuer} has not been asked yet")
    provider = _provider_of(settings, metadata)
    method = _method(settings, metadata)
    token_url = _token_url(settings, provider, metadata, method)
    audience = token_url if metadata is None else metadata.issuer
    margin_seconds = settings.min_margin_seconds
    return Client(
        name=name,
        provider=provider,
        token_url=token_url,
        client_id=settings.client_id,
        credentials=_credentials(settings, method, audience, ca_file, called or partial(variable_of, name)),
        grant_type=GrantType(settings.grant_type),
        scopes=settings.scopes,
        rate_per_second=settings.rate_per_second,
        parameters=tuple((each, value) for each, values in settings.parameters.items() for value in values),
        revoke_url=_revoke_url(settings, provider, metadata),
        authorize_url=_authorize_url(settings, provider, metadata),
        redirect_uri=settings.redirect_uri,
        issuer=None if metadata is None else metadata.issuer,
        states_issuer=metadata is not None and metadata.states_issuer,
        revoking_ends_consent=settings.revoking_ends_consent,
        user_agent=settings.user_agent or _release(),
        access_lifetime_ms=_access_lifetime_ms(settings),
        refresh_at=settings.refresh_at,
        min_margin_ms=None if margin_seconds is None else int(margin_seconds * 1000),
        refresh_kills_access_token=settings.refresh_kills_access_token,
        reconnect_url=reconnect_url,
    )


def _access_lifetime_ms(settings: ClientSettings) -> int | NoLifetime | None:
    seconds = settings.access_lifetime_seconds
    if seconds == "never":
        return NoLifetime.NEVER
    return None if seconds is None else seconds * 1000


def _method(settings: ClientSettings, metadata: IssuerMetadata | None) -> str:
    """How the client proves itself: as it is set, else in the first way that its issuer takes."""
    if settings.authentication is not None:
        return settings.authentication
    if metadata is None:
        return DEFAULT_AUTHENTICATION
    if settings.client_secret is not None:
        able = BY_SECRET
    elif settings.certificate_file is not None:
        able = BY_CERTIFICATE + BY_KEY
    else:
        able = BY_NOTHING if settings.private_key_file is None else BY_KEY
    for method in able:
        if method in metadata.authentication_methods:
            return method
    takes = ", ".join(sorted(metadata.authentication_methods))
    raise NotDiscoveredError(f"its issuer takes {takes}: set what one of these needs, or AUTHENTICATION")


def _token_url(
    settings: ClientSettings, provider: Provider, metadata: IssuerMetadata | None, method: str
) -> str:
    if metadata is not None:
        alias = metadata.mtls_token_endpoint if method in BY_CERTIFICATE else None
        return alias or metadata.token_endpoint
    if settings.token_url is not None:
        return settings.token_url
    return f"{_base_url(settings, provider)}{provider.token_path}"


def _revoke_url(settings: ClientSettings, provider: Provider, metadata: IssuerMetadata | None) -> str | None:
    if settings.revoke_url is not None or metadata is not None:
        return settings.revoke_url or (metadata.revocation_endpoint if metadata is not None else None)
    # A token URL of its own is another server: the provider's must not hear that server's tokens.
    if provider.revoke_path is None or settings.token_url is not None:
        return None
    return f"{_base_url(settings, provider)}{provider.revoke_path}"


def _authorize_url(
    settings: ClientSettings, provider: Provider, metadata: IssuerMetadata | None
) -> str | None:
    if settings.authorize_url is not None or metadata is not None:
        return settings.authorize_url or (metadata.authorization_endpoint if metadata is not None else None)
    if provider.authorize_path is None or settings.token_url is not None:  # as for the revocation endpoint
        return None
    return f"{_base_url(settings, provider)}{provider.authorize_path}"


def _base_url(settings: ClientSettings, provider: Provider) -> str:
    return (settings.base_url or provider.base_url or "").rstrip("/")


def _credentials(
    settings: ClientSettings, method: str, audience: str, ca_file: Path | None, called: Called
) -> tuple[ClientCredentials, ...]:
    if method == "none":
        return (PublicClient(),)
    if method in BY_CERTIFICATE:
        return (_certificate(settings, ca_file, called),)
    if method == "private_key_jwt":
        return (_private_key(settings, audience, called),)
    return tuple(_by_secret(settings, method, secret, audience) for secret in _secrets(settings, called))


def _secrets(settings: ClientSettings, called: Called) -> Iterator[str]:
    """The new one, then the one that it replaces."""
    for name in ("client_secret", "previous_client_secret"):
        secret, file = getattr(settings, name), getattr(settings, f"{name}_file")
        if secret is not None:
            yield secret.get_secret_value()
        elif file is not None:
            yield _read_secret(file, called(f"{name}_file"))


def _read_secret(file: Path, field: str) -> str:
    try:
        return read_secret(file)
    except OSError as problem:
        raise _unreadable(field, problem) from None
    except ValueError as problem:
        raise SettingsError(f"{field} {problem}") from None


def _by_secret(settings: ClientSettings, method: str, secret: str, audience: str) -> ClientCredentials:
    if method == "client_secret_jwt":
        # Loads a library for JWT, which other clients do without.
        from worker.adapters.credentials.assertions import ClientSecretJwt  # noqa: PLC0415

        return ClientSecretJwt(secret, settings.key_id, audience)
    by_method = {each.method: each for each in (ClientSecretPost, ClientSecretBasic, ClientSecretBasicRaw)}
    return by_method[method](secret)


def _private_key(settings: ClientSettings, audience: str, called: Called) -> ClientCredentials:
    from worker.adapters.credentials.assertions import PrivateKeyError, PrivateKeyJwt  # noqa: PLC0415 as above

    try:
        return PrivateKeyJwt.load(
            _content(settings.private_key_file) or b"",
            settings.key_id,
            audience,
            certificate=_content(settings.certificate_file),
        )
    except PrivateKeyError as problem:
        raise SettingsError(f"{called('private_key_file')} {problem}") from None
    except OSError as problem:
        raise _unreadable(called("private_key_file"), problem) from None


def _certificate(settings: ClientSettings, ca_file: Path | None, called: Called) -> ClientCredentials:
    from worker.adapters.credentials.certificates import CertificateError, TlsClientAuth  # noqa: PLC0415 as above

    if settings.certificate_file is None or settings.private_key_file is None:
        raise SettingsError(f"{called('private_key_file')} is missing")
    try:
        return TlsClientAuth.load(settings.certificate_file, settings.private_key_file, ca_file)
    except CertificateError as problem:
        raise SettingsError(f"{called('private_key_file')} {problem}") from None
    except OSError as problem:
        raise _unreadable(called("private_key_file"), problem) from None


def _unreadable(field: str, problem: OSError) -> SettingsError:
    return SettingsError(f"{field} takes a file that can be read: {problem.strerror}")


def _content(file: Path | None) -> bytes | None:
    return None if file is None else file.read_bytes()


@cache
def _release() -> str:
    return f"evergrant/{version('evergrant')}"


def _provider_of(settings: ClientSettings, metadata: IssuerMetadata | None) -> Provider:
    if settings.provider == "buddy":
        provider = providers.BUDDY
    elif settings.provider == "pagerduty":
        kinds = {"scoped": providers.PAGERDUTY_SCOPED, "classic": providers.PAGERDUTY_CLASSIC}
        provider = kinds[settings.oauth_kind]
    else:
        provider = providers.OAUTH2
    changes: dict[str, Any] = {}
    if settings.refresh_lifetime_seconds is not None:
        changes["refresh_lifetime_ms"] = settings.refresh_lifetime_seconds * 1000
    if settings.absolute_lifetime_seconds is not None:
        changes["absolute_lifetime_ms"] = settings.absolute_lifetime_seconds * 1000
    if settings.rejected_errors:
        own_words = frozenset(map(canonical_code, settings.rejected_errors))
        changes["rejected_codes"] = provider.rejected_codes | own_words
    if metadata is not None and metadata.scopes:
        changes["known_scopes"] = metadata.scopes
    return replace(provider, **changes)
