"""The forms of settings that take no more than Python to check, and what all sources have in common.

`settings.py` says which setting has which form. This file loads nothing that takes long: `plain.py` needs it.
"""

import base64
import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

PREFIX: Final = "EVERGRANT_"
SECRETS_DIR: Final = "/run/secrets"
KEY_BYTES: Final = 32
TEN_YEARS_SECONDS: Final = 315_360_000
MOST_OF_A_PATH: Final = 1000  # characters

KEY_FORM: Final = "id:base64-of-32-bytes, comma-separated; `evergrant keys new` makes one"

CLIENT_NAME: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
CLIENT_NAME_TAKES: Final = "it takes 1 to 64 letters, digits, dots, hyphens and underscores"


class SettingsError(Exception):
    """A setting is wrong or missing; the message is one line that names its variable."""


def endpoint_url(url: str) -> str:
    """An https:// URL that is used as it is.

    Raises:
        ValueError: it is none; so for the other forms.
    """
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in {"https", "http"}:
        raise ValueError("takes an https:// URL")
    if parts.username or parts.password:
        raise ValueError("takes a URL without credentials in it")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ValueError("takes an https:// URL; plain http:// is accepted for loopback only")
    if not re.fullmatch(r"[!-~]+", url) or "#" in url:
        raise ValueError("takes a URL in printable ASCII, without a fragment: it is used as it is")
    return url


def _split(url: str) -> SplitResult | None:
    """The parts of a URL; `None` if it is no URL. An error from `urlsplit` would repeat the password."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def public_url(url: str) -> str:
    """Where browsers reach the service: a host, for that is what cookies belong to."""
    parts = urlsplit(endpoint_url(url))
    if parts.path.strip("/") or parts.query:
        raise ValueError("takes https://HOST, with a port where it has one, and no path")
    return url.rstrip("/")


def return_urls(value: Any) -> Any:
    """Several URLs, divided by commas."""
    if not isinstance(value, str):
        return value
    return tuple(endpoint_url(part.strip()) for part in value.split(",") if part.strip())


def page_template(url: str) -> str:
    """A page's URL in whose path or query `{grant}` and `{client}` may stand."""
    plain = url.replace("{grant}", "grant").replace("{client}", "client")
    if "{" in plain or "}" in plain:
        raise ValueError("takes {grant} and {client} as its only placeholders")
    parts = urlsplit(endpoint_url(plain))
    if not url.partition("://")[2].startswith(parts.netloc):
        raise ValueError("takes {grant} and {client} after the host only")
    return url


def webhook_ranges(value: Any) -> Any:
    """Several networks, divided by commas."""
    if not isinstance(value, str):
        return value
    try:
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
    except ValueError:
        raise ValueError("takes networks such as 10.0.0.0/8,fd00::/8, comma-separated") from None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host(name: str) -> str:
    """An address of this machine."""
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{1,253}", name):
        raise ValueError("takes an address of this machine, or its name: 127.0.0.1, 0.0.0.0, ::1")
    return name


def printable(text: str) -> str:
    """One line that can be shown; not blank, for an empty path would be the directory we happen to run in."""
    if not text.strip():
        raise ValueError("is empty")
    if not text.isprintable():
        raise ValueError("takes printable characters: no line breaks, no control characters")
    return text


def directory(path: str | Path) -> Path:
    """Expand `~` as a shell does: nothing else does so for a `.env` file."""
    text = printable(str(path))
    if len(text) > MOST_OF_A_PATH:
        raise ValueError(f"takes a path of at most {MOST_OF_A_PATH} characters")
    expanded = os.path.expanduser(path)  # noqa: PTH111 it leaves the ~ of a user that is not there
    if expanded.startswith("~"):
        raise ValueError("takes a path without ~: that user has no home directory here")
    return Path(expanded)


def read_secret(file: Path) -> str:
    """A secret that stands alone in a file, without the white space around it.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty or no text.
    """
    try:
        secret = file.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError("takes a file of UTF-8 text") from None
    if not secret:
        raise ValueError("takes a file with a secret in it: it is empty")
    return printable(secret)


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
