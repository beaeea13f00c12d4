"""Settings in their plain form: what handing out a token at hand needs of them.

pydantic takes longer to load than a token takes to be handed out. `read_plainly` reads the settings of most
deployments without it: a Redis that is reached directly, clients with a secret.

Rule: it vouches for every setting or for none. What it takes, `load_settings` takes too, and reads the same
(tests/property/test_plain_settings.py). At any setting, form or value that it does not know it gives up, and
`load_settings` reads it or says what is wrong. So a new setting works without a line here, only slower.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from config import forms
from config.servers import Kind, ServerUrl, check_broker_url, read_server_url

T = TypeVar("T")

ENV_FILE: Final = ".env"
CLIENTS: Final = "CLIENTS"
NUMBER: Final = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,9})?")
WHOLE_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}")


class _NotPlainError(ValueError):
    """A setting has a form that only `load_settings` reads, or that it refuses."""


@dataclass(frozen=True, kw_only=True)
class PlainClient:
    """What promises depend on of one client; the names are those of `ClientSettings`."""

    grant_type: Literal["refresh_token", "client_credentials"] = "refresh_token"
    refresh_at: float | None = None
    min_margin_seconds: float | None = None
    refresh_kills_access_token: bool = True


@dataclass(frozen=True, kw_only=True)
class PlainSettings:
    """What handing out needs of a deployment; the names are those of `Settings`.

    Attributes:
        server: where the store is.
        keys: 32 bytes by key id; the first one seals.
    """

    server: ServerUrl = field(repr=False)
    keys: Mapping[str, bytes] = field(repr=False)
    clients: Mapping[str, PlainClient]
    namespace: str = "evergrant"
    refresh_at: float = 2 / 3
    min_margin_seconds: float = 300.0
    believe_seconds: float = 3600.0
    http_timeout_seconds: float = 10.0
    audit_kept: int = 100_000


def read_plainly() -> PlainSettings | None:
    """The settings as all sources have them now; `None` where one of them is not plain."""
    try:
        return _settings_of(_texts())
    except (ValueError, OSError, RuntimeError):  # `load_settings` meets it too, and says it
        return None


def _texts() -> dict[str, str]:
    """Every variable without its prefix: of the environment, else of `.env`, else of a secret file."""
    environment, dotenv = _ours(os.environ), _ours(_dotenv())
    named = environment.get("SECRETS_DIR") or dotenv.get("SECRETS_DIR") or forms.SECRETS_DIR
    return _secret_files(forms.directory(named)) | dotenv | environment


def _ours(variables: Mapping[str, str | None]) -> dict[str, str]:
    ours: dict[str, str] = {}
    for name, value in variables.items():
        if not name.upper().startswith(forms.PREFIX):
            continue
        short = name.upper().removeprefix(forms.PREFIX)
        if value is None or short in ours:
            raise _NotPlainError(name)
        ours[short] = value
    return ours


def _dotenv() -> Mapping[str, str | None]:
    if not Path(ENV_FILE).is_file():
        return {}
    from dotenv import dotenv_values  # noqa: PLC0415 most deployments have no such file

    return dotenv_values(ENV_FILE, encoding="utf8")


def _secret_files(directory: Path) -> dict[str, str]:
    from config import secret_files  # noqa: PLC0415 it knows this file's neighbours only

    try:
        return _ours(secret_files.read(directory))
    except secret_files.SecretFilesError as problem:
        raise _NotPlainError(str(problem)) from None


def _settings_of(texts: Mapping[str, str]) -> PlainSettings:
    values: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        if name.startswith(f"{CLIENTS}__"):
            client, setting = _split(name)
            tables.setdefault(client, {})[setting] = text
        else:
            values[name.lower()] = _known(SETTINGS, name)(text)
    if "redis_url" not in values or "keys" not in values:
        raise _NotPlainError("the embedded server has keys of its own")
    if "data_dir" not in values:
        Path.home()  # an error where nobody says where the user's data is
    from_file = _tables_of_file(values.get("clients_file"))
    if tables.keys() & from_file.keys():
        raise _NotPlainError("two sources set one client")
    return PlainSettings(
        server=values["redis_url"],
        clients={name: _client_of(name, table) for name, table in {**tables, **from_file}.items()},
        **{name: values[name] for name in PlainSettings.__dataclass_fields__ if name in values},
    )


def _split(name: str) -> tuple[str, str]:
    parts = name.lower().split("__")
    if len(parts) != 3:  # noqa: PLR2004 CLIENTS, the client's name, the field's
        raise _NotPlainError(name)
    return parts[1], parts[2]


def _tables_of_file(path: Path | None) -> Mapping[str, Mapping[str, Any]]:
    if path is None:
        return {}
    from config import clients_file  # noqa: PLC0415 most deployments have no such file

    try:
        return clients_file.read(path).tables
    except clients_file.ClientsFileError as problem:
        raise _NotPlainError(str(problem)) from None


def _client_of(name: str, table: Mapping[str, Any]) -> PlainClient:
    if not re.fullmatch(forms.CLIENT_NAME, name):
        raise _NotPlainError(name)
    values = {field: _known(OF_A_CLIENT, field)(value) for field, value in table.items()}
    secrets = values.keys() & {"client_secret", "client_secret_file"}
    if "provider" not in values or "client_id" not in values or len(secrets) != 1:
        raise _NotPlainError(name)
    if values["provider"] == "oauth2" and "token_url" not in values:
        raise _NotPlainError(name)
    return PlainClient(**{each: values[each] for each in PlainClient.__dataclass_fields__ if each in values})


def _known(table: Mapping[str, T], name: str) -> T:
    if name not in table:
        raise _NotPlainError(name)
    return table[name]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _NotPlainError
    return forms.printable(value)


def _one_of(*words: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in words:
            raise _NotPlainError
        return str(value)

    return read


def _like(pattern: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not re.fullmatch(pattern, _text(value)):
            raise _NotPlainError
        return str(value)

    return read


def _number(least: float, most: float, kind: type[int] | type[float] = float) -> Callable[[Any], float]:
    form = NUMBER if kind is float else WHOLE_NUMBER

    def read(value: Any) -> float:
        if (
            isinstance(value, bool)
            or not isinstance(value, str | int | float)
            or not form.fullmatch(str(value))
        ):
            raise _NotPlainError
        number = kind(value)
        if not least <= number <= most:
            raise _NotPlainError
        return number

    return read


def _server(text: str) -> ServerUrl:
    server = read_server_url(text)
    is_direct = server.kind in {Kind.SINGLE, Kind.UNIX} and server.tls is None
    if not is_direct or (server.login.username and not server.login.password):
        raise _NotPlainError
    return server


def _broker(text: str) -> str:
    check_broker_url(text)
    if text.partition("://")[0] in {"redis-cluster", "rediss-cluster"}:
        raise _NotPlainError
    return text


def _keys(text: str) -> Mapping[str, bytes]:
    pairs = list(_pairs(text))
    if not pairs or len(dict(pairs)) < len(pairs):
        raise _NotPlainError
    return dict(pairs)


def _pairs(text: str) -> Iterator[tuple[str, bytes]]:
    for part in text.split(","):
        key_id, _, secret = part.strip().partition(":")
        if not re.fullmatch(r"[!-~]{1,32}", key_id):
            raise _NotPlainError
        yield key_id, forms.decode_key(secret)


def _secret_file(value: Any) -> Path:
    file = forms.directory(_text(value))
    forms.read_secret(file)
    return file


def _lifetime(value: Any) -> Any:
    return value if value == "never" else _number(1, forms.TEN_YEARS_SECONDS, int)(value)


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return _one_of("true", "false")(value) == "true"


def _scopes(value: Any) -> tuple[str, ...]:
    return tuple(map(_text, value)) if isinstance(value, list) else (_text(value),)


SETTINGS: Final[Mapping[str, Callable[[str], Any]]] = {
    "REDIS_URL": _server,
    "BROKER_URL": _broker,
    "DATA_DIR": forms.directory,
    "NAMESPACE": _like(r"[A-Za-z0-9._-]{1,64}"),
    "KEYS": _keys,
    "CLIENTS_FILE": forms.directory,
    "SECRETS_DIR": forms.directory,
    "SWEEP_SECONDS": _number(0.1, 3600),
    "REFRESH_AT": _number(0.001, 0.999),
    "MIN_MARGIN_SECONDS": _number(0, 10**9),
    "HTTP_TIMEOUT_SECONDS": _number(0.001, 60),
    "IN_FLIGHT": _number(1, 1000, int),
    "BELIEVE_SECONDS": _number(0, 604_800),
    "PROBE_SECONDS": _number(0.1, 3600),
    "JOURNAL_SECONDS": _number(1, 86_400),
    "EVENTS_KEPT": _number(1000, 10**9, int),
    "AUDIT_KEPT": _number(1000, 10**9, int),
    "HTTP_HOST": forms.host,
    "HTTP_PORT": _number(0, 65_535, int),
    "METRICS_PORT": _number(0, 65_535, int),
    "PUBLIC_URL": forms.public_url,
    "RETURN_URLS": forms.return_urls,
    "RECONNECT_URL": forms.page_template,
    "WEBHOOK_PRIVATE_RANGES": forms.webhook_ranges,
    "LOG_LEVEL": _one_of("debug", "info", "warning", "error"),
    "LOG_FORMAT": _one_of("json", "console"),
}
OF_A_CLIENT: Final[Mapping[str, Callable[[Any], Any]]] = {
    "provider": _one_of("buddy", "pagerduty", "oauth2"),
    "client_id": _text,
    "client_secret": _text,
    "client_secret_file": _secret_file,
    "previous_client_secret": _text,
    "scopes": _scopes,
    "redirect_uri": lambda value: forms.endpoint_url(_text(value)),
    "base_url": lambda value: forms.endpoint_url(_text(value)),
    "token_url": lambda value: forms.endpoint_url(_text(value)),
    "authorize_url": lambda value: forms.endpoint_url(_text(value)),
    "revoke_url": lambda value: forms.endpoint_url(_text(value)),
    "revoking_ends_consent": _flag,
    "rate_per_second": _number(0.001, 100_000),
    "authentication": _one_of("client_secret_post", "client_secret_basic"),
    "user_agent": _like(r"[!-~][ -~]*"),
    "grant_type": _one_of("refresh_token", "client_credentials"),
    "oauth_kind": _one_of("scoped", "classic"),
    "refresh_lifetime_seconds": _number(1, forms.TEN_YEARS_SECONDS, int),
    "absolute_lifetime_seconds": _number(1, forms.TEN_YEARS_SECONDS, int),
    "access_lifetime_seconds": _lifetime,
    "refresh_at": _number(0.001, 0.98),
    "min_margin_seconds": _number(0, 10**9),
    "refresh_kills_access_token": _flag,
}
