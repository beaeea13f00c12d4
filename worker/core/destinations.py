"""Where a webhook may be sent: its URL, and every address that its host turns out to have.

Rules:
- Only public addresses, beside the private ranges that the deployment allows. A name is judged by all of its
  addresses, at each delivery: it may lead elsewhere tomorrow.
- Loopback needs no range where the URL itself says so: whoever writes `http://127.0.0.1` means this machine.
  A name that leads there does not.
- TLS, but for loopback and allowed private ranges.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MOST_OF_A_URL: Final = 2_000  # characters
# Special purposes (IANA's registries) that `ipaddress` calls public, in one release of Python or another.
SPECIAL: Final[tuple[Network, ...]] = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("192.0.0.0/24", "192.88.99.0/24"),
        *("64:ff9b:1::/48", "100::/64", "2001::/23", "2002::/16", "3fff::/20", "5f00::/16"),
    )
)
TRANSLATED: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last four bytes are an IPv4 address

_LOOPBACK_4: Final = ipaddress.ip_network("127.0.0.0/8")
_LOOPBACK_6: Final = ipaddress.ip_address("::1")


@dataclass(frozen=True, slots=True)
class Destination:
    """A webhook's URL, taken apart.

    Attributes:
        host: a name or an address, without brackets.
        is_plain: it is reached without TLS.
    """

    host: str
    is_plain: bool

    @property
    def is_loopback(self) -> bool:
        """Whether the URL itself names this machine."""
        address = address_in(self.host)
        return self.host == "localhost" or (address is not None and _is_loopback(address))


def read_url(url: str, allowed: Sequence[Network]) -> Destination:
    """A URL to which webhooks may be sent, as far as it says itself.

    Raises:
        ValueError: it is none; the message says what is accepted.
    """
    parts = _split(url)
    if parts is None or not parts.hostname or parts.scheme not in {"https", "http"}:
        raise ValueError("takes an https:// URL")
    if parts.username or parts.password:
        raise ValueError("takes a URL without credentials in it: webhooks are signed")
    if not (url.isascii() and url.isprintable()) or " " in url or "#" in url or len(url) > MOST_OF_A_URL:
        raise ValueError(f"takes at most {MOST_OF_A_URL} printable ASCII characters, without a fragment")
    there = Destination(parts.hostname, parts.scheme == "http")
    if there.is_plain and not there.is_loopback and not allowed:
        raise ValueError("takes an https:// URL; plain http:// is for loopback and allowed private ranges")
    address = address_in(there.host)
    if address is not None and not may_be_sent_to(there, [address], allowed):
        raise ValueError(
            f"{address} is no public address; EVERGRANT_WEBHOOK_PRIVATE_RANGES can allow private ones"
        )
    return there


def origin_of(url: str) -> str:
    """The scheme and host of a webhook's URL: all that is told of it, for a path may be a secret."""
    return "/".join(url.split("/")[:3]).partition("?")[0]


def may_be_sent_to(there: Destination, addresses: Sequence[Address], allowed: Sequence[Network]) -> bool:
    """Whether each of a host's addresses is one to send to."""
    return bool(addresses) and all(_may_be(there, address, allowed) for address in addresses)


def address_in(host: str) -> Address | None:
    """The address that a host is; `None` where it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _may_be(there: Destination, address: Address, allowed: Sequence[Network]) -> bool:
    if there.is_loopback and _is_loopback(address):
        return True
    if any(address in network for network in allowed):
        return True
    return not there.is_plain and _is_public(address)


def _is_loopback(address: Address) -> bool:
    """Not an IPv4 address in the dress of an IPv6 one, which Python 3.13 calls loopback too."""
    return address in _LOOPBACK_4 if isinstance(address, ipaddress.IPv4Address) else address == _LOOPBACK_6


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        # Each of these leads to an IPv4 address, which nobody would look at.
        if address.ipv4_mapped or address.scope_id:
            return False
        if address in TRANSLATED:
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    if any(address in network for network in SPECIAL):
        return False
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_loopback or address.is_unspecified
    )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts
