"""Which settings of a client go together.

How a client proves itself decides which of its other settings it needs. A setting that nothing would use is
refused: it shows that the client is not the one its operator means.
"""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from pathlib import Path

    from config.settings import ClientSettings

SecretMethod = Literal[
    "client_secret_post", "client_secret_basic", "client_secret_basic_raw", "client_secret_jwt"
]
Authentication = Literal[SecretMethod, "none", "private_key_jwt", "tls_client_auth"]

_BY_SECRET: Final = frozenset(SecretMethod.__args__)  # type: ignore[attr-defined] # as typing has it
_BY_KEY: Final = frozenset({"private_key_jwt", "tls_client_auth"})
_BY_JWT: Final = frozenset({"private_key_jwt", "client_secret_jwt"})
# Those whose request has no `client_id` of its own.
_MAY_ADD_CLIENT_ID: Final = _BY_JWT | {"client_secret_basic", "client_secret_basic_raw"}

# Without an issuer, which says what it takes.
DEFAULT_AUTHENTICATION: Final = "client_secret_post"
OWN_PARAMETERS: Final = frozenset(
    {"grant_type", "refresh_token", "code", "code_verifier", "redirect_uri", "client_secret"}
    | {"client_assertion", "client_assertion_type"}
)
# The kind of a `PydanticCustomError` that is about one field of a client begins with this.
ABOUT: Final = "about:"

_VALUE = re.compile(r"[\x20-\x7e]+")


def values_of(parameters: Any) -> Any:
    """The values of each parameter from its text, which divides them by commas."""
    if not isinstance(parameters, dict):
        return parameters
    return {name.lower(): _values(name, value) for name, value in parameters.items()}


def _values(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(","))
    if isinstance(value, int) and not isinstance(value, bool):  # of TOML or JSON
        return (str(value),)
    if isinstance(value, list | tuple) and value and all(isinstance(each, str) for each in value):
        return tuple(value)
    raise error_about(name, "takes text, a whole number or a list of texts")


def check(client: "ClientSettings") -> None:
    """Refuse settings of one client that contradict each other.

    Raises:
        PydanticCustomError: its type names the field, and its text says what the field takes.
    """
    for field, problem in _problems(client):
        raise error_about(field, problem)


def error_about(field: str, problem: str) -> PydanticCustomError:
    """What a validator raises for a field below the one that it validates."""
    return PydanticCustomError(f"{ABOUT}{field}", "{problem}", {"problem": problem})


def _problems(client: "ClientSettings") -> Iterator[tuple[str, str]]:
    yield from _of_endpoints(client)
    # An issuer's own list decides where the settings name no method.
    method = client.authentication or (None if client.issuer else DEFAULT_AUTHENTICATION)
    yield from _of_secrets(client, method)
    yield from _of_files(client, method)
    if client.key_id is not None and method not in {*_BY_JWT, None}:
        yield "key_id", f"is not used with AUTHENTICATION={method}: leave it out"
    yield from _of_parameters(client, method)


def _of_endpoints(client: "ClientSettings") -> Iterator[tuple[str, str]]:
    for name in ("token_url", "base_url"):
        if client.issuer is not None and getattr(client, name) is not None:
            yield "issuer", f"takes the place of {name.upper()}: set one of them"
    if client.issuer is not None and urlsplit(client.issuer).query:
        yield "issuer", "takes a URL without a query (RFC 8414 section 2)"
    if client.authentication == "tls_client_auth":
        for name in ("token_url", "base_url", "issuer"):
            if (getattr(client, name) or "https:").startswith("http:"):
                yield name, "takes an https:// URL with AUTHENTICATION=tls_client_auth"


def _of_secrets(client: "ClientSettings", method: str | None) -> Iterator[tuple[str, str]]:
    for name in ("client_secret", "previous_client_secret"):
        if getattr(client, name) is not None and getattr(client, f"{name}_file") is not None:
            yield f"{name}_file", f"takes the place of {name.upper()}: set one of them"
    secret = secret_of(client, "client_secret")
    previous = secret_of(client, "previous_client_secret")
    if method in _BY_SECRET and secret is None:
        yield "client_secret", "is missing; it takes the client's secret at the provider"
    if previous is not None and secret is None:
        yield previous, "needs CLIENT_SECRET: it is tried after it"
    if method is not None and method not in _BY_SECRET and secret is not None:
        yield secret, f"is not used with AUTHENTICATION={method}: leave it out"
    if method == "client_secret_basic_raw" and ":" in client.client_id:
        yield "client_id", f"takes no colon with AUTHENTICATION={method} (RFC 7617 section 2)"


def secret_of(client: "ClientSettings", name: str) -> str | None:
    """The field that gives one of a client's secrets: the secret itself or its file; `None` if none does."""
    return next((each for each in (name, f"{name}_file") if getattr(client, each) is not None), None)


def _of_files(client: "ClientSettings", method: str | None) -> Iterator[tuple[str, str]]:
    for name, needed_by, takes in (
        ("private_key_file", _BY_KEY, "the file of the client's private key, in PEM"),
        ("certificate_file", {"tls_client_auth"}, "the file of the client's certificate, in PEM"),
    ):
        path: Path | None = getattr(client, name)
        if path is None and method in needed_by:
            yield name, f"is missing; it takes {takes}"
        if path is not None and method not in {*_BY_KEY, None}:
            yield name, f"is not used with AUTHENTICATION={method}: leave it out"
    if client.certificate_file is not None and client.private_key_file is None:
        yield "private_key_file", "is missing; it takes the file of the certificate's private key, in PEM"


def _of_parameters(client: "ClientSettings", method: str | None) -> Iterator[tuple[str, str]]:
    for name, values in client.parameters.items():
        field = f"parameters__{name}"
        if name in OWN_PARAMETERS:
            yield field, "is sent by Evergrant itself: leave it out"
        if not all(_VALUE.fullmatch(value) for value in values):
            yield field, "takes printable ASCII; commas divide values that are sent one by one"
    if "client_id" not in client.parameters:
        return
    if method not in _MAY_ADD_CLIENT_ID:
        allowed = ", ".join(sorted(_MAY_ADD_CLIENT_ID))
        yield "parameters__client_id", f"needs AUTHENTICATION to be one of {allowed}"
    if client.parameters["client_id"] != (client.client_id,):
        yield "parameters__client_id", "takes the client's CLIENT_ID, to be sent in the form too"
