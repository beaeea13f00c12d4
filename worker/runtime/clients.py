"""The configured clients, read again when their secrets may have changed."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from config import ClientSettings, Settings, SettingsError, load_settings
from worker.adapters.credentials import SECRET_METHODS
from worker.core import providers
from worker.core.providers import Client, GrantType, Provider


class ConfiguredClients:
    """The clients of the settings, each as it was read last."""

    def __init__(self, settings: Settings) -> None:
        self._clients = {name: client_of(name, each) for name, each in settings.clients.items()}
        self._generations: dict[str, int] = {}

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients.values())

    def __contains__(self, name: str) -> bool:
        return name in self._clients

    def get(self, name: str, generation: int) -> Client:
        """The client as it is configured, read again when `generation` has grown.

        Raises:
            KeyError: no client has that name.
        """
        if generation > self._generations.get(name, 0) and self._read(name):
            self._generations[name] = generation
        return self._clients[name]

    def reread(self, name: str) -> Client:
        """The client as its source has it now; as it was where the source cannot be read.

        Raises:
            KeyError: no client has that name.
        """
        self._read(name)
        return self._clients[name]

    def _read(self, name: str) -> bool:
        """Read one client's settings again; returns whether the settings could be read."""
        try:
            settings = load_settings()
        except SettingsError:
            return False
        if name in settings.clients:
            self._clients[name] = client_of(name, settings.clients[name])
        return True


def client_of(name: str, settings: ClientSettings) -> Client:
    """A client as the core knows it."""
    provider = _provider_of(settings)
    token_url = settings.token_url
    if token_url is None:
        token_url = f"{settings.base_url or provider.base_url}{provider.token_path}"
    authenticate_with = SECRET_METHODS[settings.authentication]
    secrets = (settings.client_secret, settings.previous_client_secret)
    return Client(
        name=name,
        provider=provider,
        token_url=token_url,
        client_id=settings.client_id,
        credentials=tuple(authenticate_with(each.get_secret_value()) for each in secrets if each is not None),
        grant_type=GrantType(settings.grant_type),
        scopes=settings.scopes,
        rate_per_second=settings.rate_per_second,
    )


def _provider_of(settings: ClientSettings) -> Provider:
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
    return replace(provider, **changes)
