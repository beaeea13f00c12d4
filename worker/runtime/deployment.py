"""Where a deployment's things are: the store, the sealing keys and the journals."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from config import Settings, SettingsError
from config.forms import decode_key
from worker.adapters import key_file, proxy
from worker.adapters.embedded import EmbeddedServer, EmbeddedServerError
from worker.adapters.sealing import KeyRing
from worker.adapters.store.write_concern import WriteConcern
from worker.runtime import liveness
from worker.runtime.clients import check_clients, scope_warnings
from worker.runtime.derived import prefix_of

ADMIN_KEY: Final = "admin-key"  # the file of the key that `evergrant up` makes

__all__ = ["Deployment", "EmbeddedServerError", "deploy", "embedded_server"]


@dataclass(frozen=True)
class Deployment:
    """Where one deployment keeps its things."""

    settings: Settings
    redis_url: str = field(repr=False)
    keys: KeyRing

    @property
    def prefix(self) -> str:
        """What every key begins with: the namespace as a hash tag."""
        return prefix_of(self.settings.namespace)

    @property
    def journals(self) -> Path:
        """The directory in which its processes on this machine keep their journals."""
        return self.settings.data_dir / "journal" / self.settings.namespace

    @property
    def heartbeats(self) -> Path:
        """The directory in which its processes on this machine show probes that they live."""
        return liveness.directory_of(self.settings.data_dir, self.settings.namespace)

    @property
    def issuers(self) -> Path:
        """The directory in which issuers' documents are kept, for every namespace: they are public."""
        return self.settings.data_dir / "issuers"

    @property
    def secret_files(self) -> list[Path]:
        """The files with secrets that nobody else on this machine needs, whether they exist or not."""
        private_keys = {client.private_key_file for client in self.settings.clients.values()}
        ours = (Path(".env"), *(self.settings.data_dir / name for name in (key_file.FILE_NAME, ADMIN_KEY)))
        return [*ours, *sorted(path for path in private_keys if path is not None)]

    @property
    def clients_file_warning(self) -> str:
        """One line where secrets in the clients file can be read by everybody on this machine; else empty."""
        file = self.settings.from_file
        if file is None or not file.is_public:
            return ""
        return (
            f"EVERGRANT_CLIENTS_FILE: {file.path} holds secrets and every user of this machine can read it:"
            f" `chmod o-r {file.path}`"
        )

    @property
    def warnings(self) -> list[str]:
        """What is odd about the settings, a line each: a worker and the service say it at their start."""
        file_warning = self.clients_file_warning
        return [*([file_warning] if file_warning else ()), *scope_warnings(self.settings)]

    @property
    def write_concern(self) -> WriteConcern | None:
        """What a write needs beyond the primary's reply before it counts as stored; `None` for nothing."""
        settings = self.settings
        if not settings.wait_replicas and not settings.wait_fsync:
            return None
        return WriteConcern(settings.wait_replicas, settings.wait_fsync)


def deploy(settings: Settings, tell: Callable[[str], None]) -> Deployment:
    """Find out where things are.

    Args:
        settings: the deployment's.
        tell: called with a line when a sealing key is made.

    Raises:
        SettingsError: no sealing key is named, or its file cannot be used; a client's key cannot be used, or
            the environment names a proxy that cannot be.
    """
    check_clients(settings)
    _check_proxy()
    if settings.redis_url is not None:
        url = settings.redis_url.get_secret_value()
    else:
        url = EmbeddedServer(settings.data_dir).url
    return Deployment(settings, url, _key_ring(settings, tell))


def embedded_server(settings: Settings) -> EmbeddedServer | None:
    """The server that ships with the product, not opened yet; `None` where the settings name another one."""
    return EmbeddedServer(settings.data_dir) if settings.uses_embedded_server else None


def _check_proxy() -> None:
    named = proxy.of_environment()
    if named is not None and not named.startswith(("http://", "https://")):
        raise SettingsError("HTTPS_PROXY takes an http:// or https:// URL")


def _key_ring(settings: Settings, tell: Callable[[str], None]) -> KeyRing:
    if settings.keys:
        lines = {key_id: secret.get_secret_value() for key_id, secret in settings.keys.items()}
    elif settings.uses_embedded_server:
        lines = _keys_of_file(settings, tell)
    else:
        raise SettingsError(
            "EVERGRANT_KEYS is missing: tokens are sealed before they are stored;"
            " `evergrant keys new` makes a key"
        )
    return KeyRing({key_id: decode_key(secret) for key_id, secret in lines.items()})


def _keys_of_file(settings: Settings, tell: Callable[[str], None]) -> dict[str, str]:
    try:
        line, made = key_file.read_or_make(settings.data_dir)
    except key_file.KeyFileError as error:
        line = f"EVERGRANT_KEYS is not set, and its file in EVERGRANT_DATA_DIR cannot be used: {error}"
        raise SettingsError(line) from None
    path = settings.data_dir / key_file.FILE_NAME
    if made:
        tell(f"made a sealing key in {path}: keep a copy, without it no stored token can be read")
    try:
        lines = dict(part.strip().split(":", 1) for part in line.split(","))
        for secret in lines.values():
            decode_key(secret)
    except ValueError:
        raise SettingsError(f"EVERGRANT_KEYS is not set, and {path} holds no key") from None
    return lines
