"""The proxy that the environment names: `HTTPS_PROXY` and `NO_PROXY`, in capitals or small letters."""

from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass


def of_environment() -> str | None:
    """The proxy to https URLs, always with a scheme; `None` for none. It may hold a password."""
    named = getproxies_environment().get("https")
    if not named:
        return None
    return named if "://" in named else f"http://{named}"  # as curl reads it


def of_environment_for(url: str) -> str | None:
    """The proxy to one URL. Plain HTTP goes to loopback only, and so through no proxy."""
    parts = urlsplit(url)
    if parts.scheme != "https" or proxy_bypass(parts.netloc):
        return None
    return of_environment()
