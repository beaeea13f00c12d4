"""Settings from the environment, a `.env` file and a directory of secret files, in that order.

Rules:
- The error for a wrong or missing setting is one line. It names the variable and says what it takes.
- An unknown name that begins with EVERGRANT_ is refused in every source. A misspelt setting would have its
  default, which may mean another, empty store.
- Secrets are `SecretStr`: no `repr`, no error and no log shows them.
- Each `load_settings()` reads every source again: a secret replaced in its file needs no restart.

`.env.example` lists every variable with its default.
"""

import base64
import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as UnparsableError

from config.secret_files import SecretFilesError, SecretFilesSource

PREFIX = "EVERGRANT_"
SECRETS_DIR = "/run/secrets"
KEY_BYTES = 32
TEN_YEARS_SECONDS = 315_360_000

KEY_FORM = "id:base64-of-32-bytes, comma-separated; `evergrant keys new` makes one"


TAKES = {
    "provider": "'buddy', 'pagerduty' or 'oauth2'",
    "client_id": "the client's id at the provider",
    "client_secret": "the client's secret at the provider",
}


class SettingsError(Exception):
    """A setting is wrong or missing; the message is one line that names its variable."""


def _endpoint_url(url: str) -> str:
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in {"https", "http"}:
        raise ValueError("takes an https:// URL")
    if parts.username or parts.password:
        raise ValueError("takes a URL without credentials in it")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("takes an https:// URL; plain http:// is accepted for loopback only")
    return url.rstrip("/")


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; `None` if it is no URL. An error from `urlsplit` would repeat the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _redis_url(secret: SecretStr) -> SecretStr:
    parts = _split(secret.get_secret_value())
    if parts is None or parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("takes a redis://, rediss:// or unix:// URL")
    return secret


def _directory(path: str | Path) -> Path:
    """Expand `~` as a shell does: nothing else does so for a `.env` file."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 it leaves the ~ of a user that is not there


def _words(value: Any) -> Any:
    return tuple(value.replace(",", " ").replace("+", " ").split()) if isinstance(value, str) else value


EndpointUrl = Annotated[str, AfterValidator(_endpoint_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_redis_url)]
Directory = Annotated[Path, AfterValidator(_directory)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


class ClientSettings(BaseModel):
    """One registration at a provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["buddy", "pagerduty", "oauth2"]
    client_id: str = Field(min_length=1)
    client_secret: SecretStr = Field(min_length=1)
    previous_client_secret: SecretStr | None = None
    scopes: Words = ()
    redirect_uri: str | None = None
    base_url: EndpointUrl | None = None
    token_url: EndpointUrl | None = None
    rate_per_second: float | None = Field(default=None, gt=0, le=100_000)
    authentication: Literal["client_secret_post", "client_secret_basic"] = "client_secret_post"
    grant_type: Literal["refresh_token", "client_credentials"] = "refresh_token"
    oauth_kind: Literal["scoped", "classic"] = "scoped"
    refresh_lifetime_seconds: int | None = Field(default=None, gt=0, le=TEN_YEARS_SECONDS)
    absolute_lifetime_seconds: int | None = Field(default=None, gt=0, le=TEN_YEARS_SECONDS)

    @model_validator(mode="after")
    def _knows_its_endpoint(self) -> Self:
        if self.provider == "oauth2" and self.token_url is None:
            raise ValueError("needs TOKEN_URL: an oauth2 client names its own token endpoint")
        return self


class Settings(BaseSettings):
    """The deployment's settings; `.env.example` says what each is for."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    redis_url: RedisUrl | None = None
    broker_url: RedisUrl | None = None
    data_dir: Directory = Field(default_factory=lambda: _data_home() / "evergrant")
    namespace: str = Field(default="evergrant", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    keys: Annotated[dict[str, SecretStr], NoDecode] = {}
    clients: dict[str, ClientSettings] = {}

    sweep_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    refresh_at: float = Field(default=2 / 3, gt=0, lt=1)
    min_margin_seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    http_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    in_flight: int = Field(default=100, ge=1, le=1000)
    probe_seconds: float = Field(default=60.0, ge=0.1, le=3600)
    journal_seconds: float = Field(default=900.0, ge=1, le=86_400)
    events_kept: int = Field(default=100_000, ge=1000)
    wait_replicas: int = Field(default=0, ge=0)
    wait_fsync: bool = False

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 the base class's signature
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Add the directory of secret files, one variable a file; refuse names that are no setting."""
        environment, dotenv = _names_in(env_settings), _names_in(dotenv_settings)
        variable = PREFIX + "SECRETS_DIR"
        directory = _directory(environment.get(variable) or dotenv.get(variable) or SECRETS_DIR)
        secret_files = SecretFilesSource(settings_cls, directory, PREFIX)
        _refuse_unknown(environment, "")
        _refuse_unknown(dotenv, f" in {cls.model_config['env_file']}")
        _refuse_unknown(_names_in(secret_files), f" in {directory}")
        return init_settings, env_settings, dotenv_settings, secret_files

    @field_validator("keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition(":") for part in value.split(",") if part.strip()]
        if not all(key_id and secret for key_id, _, secret in pairs):
            raise ValueError(f"takes {KEY_FORM}")
        if len({key_id for key_id, _, _ in pairs}) < len(pairs):
            raise ValueError("names one key id twice")
        return {key_id: secret for key_id, _, secret in pairs}

    @field_validator("keys")
    @classmethod
    def _are_keys(cls, keys: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for key_id, secret in keys.items():
            if not (key_id.isascii() and key_id.isprintable() and len(key_id) <= 32):  # noqa: PLR2004
                raise ValueError("takes key ids of at most 32 ASCII characters")
            decode_key(secret.get_secret_value())
        return keys

    @field_validator("clients")
    @classmethod
    def _are_lower_case(cls, clients: dict[str, ClientSettings]) -> dict[str, ClientSettings]:
        return {name.lower(): client for name, client in clients.items()}

    @field_validator("wait_replicas")
    @classmethod
    def _can_have_replicas(cls, number: int, info: ValidationInfo) -> int:
        if number and info.data.get("redis_url") is None:
            raise ValueError("needs EVERGRANT_REDIS_URL: the embedded server has no replicas")
        return number

    @property
    def uses_embedded_server(self) -> bool:
        """Whether the store is the embedded server."""
        return self.redis_url is None


def load_settings() -> Settings:
    """Read all sources.

    Raises:
        SettingsError: with one line that names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise SettingsError(_one_line(first["loc"], first["type"], first["msg"])) from None
    except SecretFilesError as error:
        raise SettingsError(str(error)) from None
    except UnparsableError as error:
        raise SettingsError(_unparsable(str(error))) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{Settings.model_config['env_file']} is not UTF-8 text") from None
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from None


def _names_in(source: PydanticBaseSettingsSource) -> dict[str, str | None]:
    """The variables of a source that begin with EVERGRANT_, their names in capitals."""
    if not isinstance(source, EnvSettingsSource):
        return {}
    named = {name.upper(): value for name, value in source.env_vars.items()}
    return {name: value for name, value in named.items() if name.startswith(PREFIX)}


def _refuse_unknown(variables: Iterable[str], where: str) -> None:
    """Refuse a misspelt variable: its setting would silently have the default."""
    known = {name.upper() for name in Settings.model_fields} | {"SECRETS_DIR"}
    for variable in sorted(variables):
        name = variable.removeprefix(PREFIX).partition("__")[0]
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; .env.example lists them all"
            raise SettingsError(f"{variable}{where} is no setting{hint}")


def decode_key(secret: str) -> bytes:
    """A sealing key from its text.

    Raises:
        ValueError: it is not 32 bytes in base64.
    """
    try:
        key = base64.b64decode(secret, validate=True)
    except ValueError:
        raise ValueError(f"takes {KEY_FORM}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"takes {KEY_FORM}; one of them has {len(key)} bytes")
    return key


def _one_line(where: tuple[int | str, ...], kind: str, message: str) -> str:
    names = [str(part) for part in where if part != "[key]"]
    variable = PREFIX + "__".join(names).upper()
    if kind == "missing":
        return f"{variable} is missing; it takes {TAKES[names[-1]]}"
    if kind == "extra_forbidden":
        known = ", ".join(sorted(name.upper() for name in ClientSettings.model_fields))
        return f"{variable} is no setting of a client; there are {known}"
    if kind in {"too_short", "string_too_short"}:
        return f"{variable} is empty"
    text = message.removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    return f"{variable}: {text}".replace(": takes", " takes").replace(": needs", " needs")


def _unparsable(message: str) -> str:
    field = re.search(r'field "(\w+)"', message)
    variable = PREFIX + (field[1] if field else "").upper()
    return f"{variable} takes JSON; or set {variable}__<NAME>__... one by one"


def _data_home() -> Path:
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
