"""Settings from the environment, a `.env` file and a directory of secret files, in that order.

Clients come from a file of their own too (`clients_file.py`).

Rules:
- The error for a wrong or missing setting is one line. It names the variable and says what it takes.
- An unknown name that begins with EVERGRANT_ is refused in every source. A misspelt setting would have its
  default, which may mean another, empty store.
- Secrets are `SecretStr`: no `repr`, no error and no log shows them.
- Each `load_settings()` reads every source again: a secret replaced in its file needs no restart.

`.env.example` lists every variable with its default.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
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

from config import clients_file, registration, secret_files
from config.clients_file import ClientsFileError
from config.forms import (
    CLIENT_NAME,
    CLIENT_NAME_TAKES,
    KEY_FORM,
    PREFIX,
    SECRETS_DIR,
    TEN_YEARS_SECONDS,
    SettingsError,
    decode_key,
    directory,
    endpoint_url,
    host,
    is_loopback,
    page_template,
    printable,
    public_url,
    read_secret,
    return_urls,
    webhook_ranges,
)
from config.registration import Authentication
from config.secret_files import SecretFilesError
from config.servers import Kind, check_broker_url, is_rabbitmq, read_server_url

API_KEY = "evg_"  # what an API key begins with
TAKES = {
    "provider": "'buddy', 'pagerduty' or 'oauth2'",
    "client_id": "the client's id at the provider",
}


def _server_url(secret: SecretStr) -> SecretStr:
    read_server_url(secret.get_secret_value())
    return secret


def _broker_url(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        check_broker_url(secret.get_secret_value())
    return secret


def _secret_text(secret: SecretStr) -> SecretStr:
    printable(secret.get_secret_value())
    return secret


def _given_directory(path: Any) -> Any:
    """Look at a path before it becomes a `Path`, which makes `.` of nothing."""
    return directory(path) if isinstance(path, str | Path) else path


def _readable_file(path: str | Path) -> Path:
    file = directory(path)
    try:
        file.read_bytes()
    except OSError as problem:
        raise ValueError(f"takes a file that can be read: {problem.strerror}") from None
    return file


def _secret_file(path: str | Path) -> Path:
    file = directory(path)
    try:
        read_secret(file)
    except OSError as problem:
        raise ValueError(f"takes a file that can be read: {problem.strerror}") from None
    return file


def _certificates(path: str | Path) -> Path:
    import ssl  # noqa: PLC0415 most deployments have no authorities of their own

    file = _readable_file(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except ssl.SSLError:
        raise ValueError("takes a file of PEM certificates") from None
    return file


def _words(value: Any) -> Any:
    if isinstance(value, str) and value.strip():
        printable(value)
    return tuple(value.replace(",", " ").replace("+", " ").split()) if isinstance(value, str) else value


def _lifetime(value: Any) -> Any:
    if value == "never" or value is None:
        return value
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 0 < int(text) <= TEN_YEARS_SECONDS:
        raise ValueError(f"takes seconds, 1 to {TEN_YEARS_SECONDS}, or never")
    return int(text)


EndpointUrl = Annotated[str, AfterValidator(endpoint_url)]
PublicUrl = Annotated[str, AfterValidator(public_url)]
PageTemplate = Annotated[str, AfterValidator(page_template)]
ReturnUrls = Annotated[tuple[str, ...], NoDecode, BeforeValidator(return_urls)]
Ranges = Annotated[tuple[Any, ...], NoDecode, BeforeValidator(webhook_ranges)]
ServerUrl = Annotated[SecretStr, AfterValidator(_server_url)]
BrokerUrl = Annotated[SecretStr, AfterValidator(_broker_url)]
Directory = Annotated[Path, BeforeValidator(_given_directory)]
Text = Annotated[str, AfterValidator(printable)]
SecretText = Annotated[SecretStr, AfterValidator(_secret_text)]
Lifetime = Annotated[int | Literal["never"], PlainValidator(_lifetime)]
ReadableFile = Annotated[Path, AfterValidator(_readable_file)]
SecretFile = Annotated[Path, AfterValidator(_secret_file)]
Certificates = Annotated[Path, AfterValidator(_certificates)]
# Not of tuples: pydantic-settings would read a number in a variable as JSON.
Parameters = Annotated[dict[str, Any], BeforeValidator(registration.values_of)]
Host = Annotated[str, AfterValidator(host)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)]


class ClientSettings(BaseModel):
    """One registration at a provider."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["buddy", "pagerduty", "oauth2"]
    client_id: Text
    client_secret: SecretText | None = None
    client_secret_file: SecretFile | None = None
    previous_client_secret: SecretText | None = None
    previous_client_secret_file: SecretFile | None = None
    scopes: Words = ()
    redirect_uri: EndpointUrl | None = None
    base_url: EndpointUrl | None = None
    token_url: EndpointUrl | None = None
    rate_per_second: float | None = Field(default=None, gt=0, le=100_000)
    authentication: Authentication | None = None
    private_key_file: ReadableFile | None = None
    key_id: Text | None = None
    certificate_file: ReadableFile | None = None
    issuer: EndpointUrl | None = None
    authorize_url: EndpointUrl | None = None
    revoke_url: EndpointUrl | None = None
    revoking_ends_consent: bool = False
    parameters: Parameters = {}
    user_agent: str | None = Field(default=None, pattern=r"^[!-~][ -~]*$")
    grant_type: Literal["refresh_token", "client_credentials"] = "refresh_token"
    oauth_kind: Literal["scoped", "classic"] = "scoped"
    refresh_lifetime_seconds: int | None = Field(default=None, gt=0, le=TEN_YEARS_SECONDS)
    absolute_lifetime_seconds: int | None = Field(default=None, gt=0, le=TEN_YEARS_SECONDS)
    access_lifetime_seconds: Lifetime | None = None
    refresh_at: float | None = Field(default=None, gt=0, le=0.98)
    min_margin_seconds: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    refresh_kills_access_token: bool = True
    rejected_errors: Words = ()

    @model_validator(mode="after")
    def _knows_its_endpoint(self) -> Self:
        if self.provider == "oauth2" and self.token_url is None and self.issuer is None:
            raise ValueError("needs TOKEN_URL or ISSUER: an oauth2 client names its own token endpoint")
        return self

    @model_validator(mode="after")
    def _has_settings_that_go_together(self) -> Self:
        registration.check(self)
        return self


@dataclass(frozen=True)
class FileClients:
    """The clients of the clients file, as it was read.

    Attributes:
        tables: what the file says of each, so that an unchanged one is not validated again.
    """

    path: Path
    version: clients_file.Version
    clients: Mapping[str, ClientSettings]
    tables: Mapping[str, Mapping[str, Any]]
    is_public: bool


class SecretFilesSource(EnvSettingsSource):
    """Reads files as if each were an environment variable.

    Args:
        settings_cls: the settings.
        directory: where the files are; it may be missing.
    """

    def __init__(self, settings_cls: type[BaseSettings], directory: Path) -> None:
        self._directory = directory
        super().__init__(settings_cls)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return secret_files.read(self._directory)


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

    redis_url: ServerUrl | None = None
    broker_url: BrokerUrl | None = Field(default=None, validate_default=True)
    data_dir: Directory = Field(default_factory=lambda: _data_home() / "evergrant")
    namespace: str = Field(default="evergrant", pattern=r"^[A-Za-z0-9._-]{1,64}$")
    keys: Annotated[dict[str, SecretStr], NoDecode] = {}
    clients: dict[str, ClientSettings] = {}
    clients_file: Directory | None = None
    ca_file: Certificates | None = None

    sweep_seconds: float = Field(default=5.0, ge=0.1, le=3600)
    refresh_at: float = Field(default=2 / 3, gt=0, lt=1)
    min_margin_seconds: float = Field(default=300.0, ge=0, allow_inf_nan=False)
    http_timeout_seconds: float = Field(default=10.0, gt=0, le=60)
    in_flight: int = Field(default=100, ge=1, le=1000)
    believe_seconds: float = Field(default=3600.0, ge=0, le=604_800)
    probe_seconds: float = Field(default=60.0, ge=0.1, le=3600)
    journal_seconds: float = Field(default=900.0, ge=1, le=86_400)
    events_kept: int = Field(default=100_000, ge=1000)
    audit_kept: int = Field(default=100_000, ge=1000)
    wait_replicas: int = Field(default=0, ge=0)
    wait_fsync: bool = False

    http_host: Host = "127.0.0.1"
    http_port: int = Field(default=8000, ge=0, le=65_535)
    metrics_port: int | None = Field(default=None, ge=0, le=65_535)
    public_url: PublicUrl | None = None
    return_urls: ReturnUrls = ()
    reconnect_url: PageTemplate | None = None
    webhook_private_ranges: Ranges = ()

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @property
    def browser_url(self) -> str | None:
        """Where browsers reach the service; `None` where that has to be set."""
        if self.public_url is not None or not is_loopback(self.http_host):
            return self.public_url
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return f"http://{host}:{self.http_port}" if self.http_port else None

    _from_file: FileClients | None = PrivateAttr(default=None)

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
        try:
            secrets = directory(environment.get(variable) or dotenv.get(variable) or SECRETS_DIR)
        except ValueError as problem:
            raise SettingsError(f"{variable} {problem}") from None
        _refuse_twins()
        secret_files_settings = SecretFilesSource(settings_cls, secrets)
        _refuse_unknown(_without_the_clients(environment), "")
        _refuse_unknown(dotenv, f" in {cls.model_config['env_file']}")
        _refuse_unknown(_names_in(secret_files_settings), f" in {secrets}")
        return init_settings, env_settings, dotenv_settings, secret_files_settings

    @field_validator("keys", mode="before")
    @classmethod
    def _split_keys(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition(":") for part in value.split(",") if part.strip()]
        if not pairs or not all(key_id and secret for key_id, _, secret in pairs):
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
        named: dict[str, ClientSettings] = {}
        for written, client in clients.items():
            name = written.lower()
            if not re.fullmatch(CLIENT_NAME, name):
                raise registration.error_about(name, f"is no name of a client; {CLIENT_NAME_TAKES}")
            if name in named:
                raise registration.error_about(name, "is set twice; capitals make no difference")
            named[name] = client
        return named

    @field_validator("broker_url")
    @classmethod
    def _can_be_a_broker(cls, broker: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        store = info.data.get("redis_url")
        named = (broker or store or SecretStr("")).get_secret_value()
        if named and not is_rabbitmq(named) and read_server_url(named).kind is Kind.CLUSTER:
            if broker is None:
                raise ValueError("is missing: Celery cannot use a cluster as its broker, name another server")
            raise ValueError("takes no cluster: Celery cannot use one as its broker")
        return broker

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

    def with_clients(self, clients: Mapping[str, ClientSettings], from_file: FileClients | None) -> Self:
        """A copy with other clients, those of the clients file among them."""
        other = self.model_copy(update={"clients": dict(clients)})
        other._from_file = from_file  # noqa: SLF001 its own class's
        return other

    def name_of(self, client: str, field: str) -> str:
        """What a person calls one field of a client: its variable, or its place in the clients file."""
        if self._from_file is not None and client in self._from_file.clients:
            return f"clients.{client}.{field} in {self._from_file.path}"
        return variable_of(client, field)

    @property
    def from_file(self) -> FileClients | None:
        """Those of `clients` that the clients file holds; `None` where no file is named."""
        return self._from_file


def load_settings(from_file: FileClients | None = None) -> Settings:
    """Read all sources.

    Args:
        from_file: the clients file as it was read before; `None` reads it.

    Raises:
        SettingsError: with one line that names the variable.
    """
    settings = _read_sources()
    if from_file is None and settings.clients_file is not None:
        from_file = read_file_clients(settings.clients_file)
    if from_file is None:
        return settings
    for name in settings.clients.keys() & from_file.clients.keys():
        raise SettingsError(
            f"{PREFIX}CLIENTS__{name.upper()} and {from_file.path} both set client {name}: one of them may"
        )
    return settings.with_clients({**settings.clients, **from_file.clients}, from_file)


def read_file_clients(path: Path, before: FileClients | None = None) -> FileClients:
    """Read the clients file; those that say what they said before are not validated again.

    Raises:
        SettingsError: with one line that names the file, the line and the field.
    """
    try:
        text = clients_file.read(path)
        clients: dict[str, ClientSettings] = {}
        for name, table in text.tables.items():
            known = before is not None and before.tables.get(name) == table
            clients[name] = before.clients[name] if before and known else _client_of_table(text, name, table)
    except ClientsFileError as error:
        raise SettingsError(str(error)) from None
    return FileClients(path, text.version, clients, text.tables, text.is_public)


def _client_of_table(text: clients_file.Text, name: str, table: Mapping[str, Any]) -> ClientSettings:
    if not re.fullmatch(CLIENT_NAME, name):
        raise text.error(f"clients.{name} is no name of a client; {CLIENT_NAME_TAKES}", name)
    try:
        return ClientSettings.model_validate(table)
    except ValidationError as error:
        where, kind, message = _first_of(error)
    names = _names_of(where, kind)
    field = ".".join((f"clients.{name}", *names))
    raise text.error(_said(field, names, kind, message), name, names[0] if names else None)


def _first_of(error: ValidationError) -> tuple[tuple[int | str, ...], str, str]:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return first["loc"], first["type"], first["msg"]


def _read_sources() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_one_line(*_first_of(error))) from None
    except SecretFilesError as error:
        raise SettingsError(str(error)) from None
    except UnparsableError as error:
        raise SettingsError(_unparsable(str(error))) from None
    except RecursionError:  # thousands of brackets; clients alone are read as JSON
        raise SettingsError(_unparsable('field "clients"')) from None
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


def _refuse_twins() -> None:
    """Refuse one variable in two spellings: only one of the two would count."""
    spelt: dict[str, str] = {}
    for name in sorted(os.environ):
        known = spelt.setdefault(name.upper(), name)
        if known != name and name.upper().startswith(PREFIX):
            raise SettingsError(f"{known} and {name} are one setting; capitals make no difference")


def _without_the_clients(environment: Mapping[str, str | None]) -> list[str]:
    """The names without those of `evergrant-client`, which may share a shell with the commands.

    A sealing key under its name is a misspelt `EVERGRANT_KEYS`.
    """
    of_the_client = {PREFIX + "URL"}
    if (environment.get(PREFIX + "KEY") or API_KEY).startswith(API_KEY):
        of_the_client.add(PREFIX + "KEY")
    return [name for name in environment if name not in of_the_client]


def _refuse_unknown(variables: Iterable[str], where: str) -> None:
    """Refuse a misspelt variable: its setting would silently have the default."""
    known = {name.upper() for name in Settings.model_fields} | {"SECRETS_DIR"}
    for variable in sorted(variables):
        name = variable.removeprefix(PREFIX).partition("__")[0]
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {PREFIX}{near[0]}?" if near else "; .env.example lists them all"
            raise SettingsError(f"{variable}{where} is no setting{hint}")


def variable_of(client: str, field: str) -> str:
    """The variable of one field of a client."""
    return f"{PREFIX}CLIENTS__{client}__{field}".upper()


def _one_line(where: tuple[int | str, ...], kind: str, message: str) -> str:
    names = _names_of(where, kind)
    return _said(PREFIX + "__".join(names).upper(), names, kind, message)


def _names_of(where: tuple[int | str, ...], kind: str) -> list[str]:
    """The names that lead to a field, from where pydantic says it is."""
    names = [str(part) for part in where if part != "[key]"]
    if kind.startswith(registration.ABOUT):
        names += kind.removeprefix(registration.ABOUT).split("__")
    return names


def _said(field: str, names: list[str], kind: str, message: str) -> str:
    """What is wrong with a field: a variable, or a place in the clients file."""
    if kind == "missing":
        return f"{field} is missing; it takes {TAKES[names[-1]]}"
    if kind == "extra_forbidden":
        known = ", ".join(sorted(ClientSettings.model_fields))
        return f"{field} is no setting of a client; there are {known if '.' in field else known.upper()}"
    if kind in {"too_short", "string_too_short"}:
        return f"{field} is empty"
    text = message.removeprefix("Value error, ")
    text = text[0].lower() + text[1:]
    return (
        f"{field}: {text}".replace(": takes", " takes").replace(": needs", " needs").replace(": is ", " is ")
    )


def _unparsable(message: str) -> str:
    field = re.search(r'field "(\w+)"', message)
    variable = PREFIX + (field[1] if field else "").upper()
    return f"{variable} takes JSON; or set {variable}__<NAME>__... one by one"


def _data_home() -> Path:
    """Where a user's data is. A container's user may have no home at all.

    Raises:
        SettingsError: nobody says.
    """
    named = os.environ.get("XDG_DATA_HOME")
    if named:
        return Path(named)
    try:
        return Path.home() / ".local" / "share"
    except RuntimeError:
        raise SettingsError(
            f"{PREFIX}DATA_DIR is missing: this user has no home directory;"
            " it takes a directory that outlives the process"
        ) from None
