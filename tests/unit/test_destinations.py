"""Where a webhook may be sent, by its URL and by what its host leads to."""

from ipaddress import ip_address, ip_network

import pytest

from worker.core.destinations import Destination, may_be_sent_to, origin_of, read_url

PRIVATE = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
INWARD = [
    *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),  # noqa: S104
    *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.0.0.8"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1", "ff0e::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a00:1", "64:ff9b::a00:1", "64:ff9b::7f00:1"),
    *("2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1::a00:1"),
]
OUTWARD = ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "64:ff9b::808:808"]


@pytest.mark.parametrize("address", INWARD)
def test_an_address_that_is_not_public_is_refused_also_beside_one_that_is(address: str) -> None:
    there = Destination("app.example", is_plain=False)

    assert not may_be_sent_to(there, [ip_address(address)], ())
    assert not may_be_sent_to(there, [ip_address("8.8.8.8"), ip_address(address)], ())


@pytest.mark.parametrize("address", OUTWARD)
def test_a_public_address_is_taken_over_tls_and_not_without(address: str) -> None:
    assert may_be_sent_to(Destination("app.example", is_plain=False), [ip_address(address)], ())
    assert not may_be_sent_to(Destination("app.example", is_plain=True), [ip_address(address)], PRIVATE)


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_private_address_is_taken_where_its_range_is_allowed(is_plain: bool) -> None:  # noqa: FBT001
    there = Destination("app.internal", is_plain)

    assert may_be_sent_to(there, [ip_address("10.1.2.3"), ip_address("fd00::1")], PRIVATE)
    assert not may_be_sent_to(there, [ip_address("192.168.1.1")], PRIVATE)


def test_nothing_is_sent_to_a_host_that_leads_nowhere() -> None:
    assert not may_be_sent_to(Destination("app.example", is_plain=False), [], ())


@pytest.mark.parametrize(
    "url",
    [
        *("https://app.example/hooks", "https://app.example:8443/hooks?tenant=acme", "https://8.8.8.8/"),
        *("http://127.0.0.1:8000/hooks", "http://[::1]/hooks", "http://localhost/", "https://127.0.0.1/"),
    ],
)
def test_a_public_url_is_taken_and_one_that_names_this_machine(url: str) -> None:
    assert read_url(url, ()).host


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "app.example",
            "ftp://app.example/",
            "https:///hooks",
            "https://app.example:port/",
            "https://[",
        ),
        *("http://app.example/", "http://8.8.8.8/", "http://10.0.0.1/", "https://10.0.0.1/"),
        *("https://169.254.169.254/latest/meta-data", "https://[::ffff:127.0.0.1]/", "https://[fe80::1]/"),
        *("https://user:password@app.example/", "https://app.example/#x", "https://app.example/a b"),
        *("https://app.example/\n", "https://app.example/é", "https://app.example/" + "a" * 2_000),
    ],
)
def test_what_is_no_url_to_send_to_is_refused_in_words(url: str) -> None:
    with pytest.raises(ValueError, match=r"takes|is no public address"):
        read_url(url, ())


def test_plain_http_is_taken_where_a_private_range_is_allowed() -> None:
    assert read_url("http://10.0.0.1/", PRIVATE).is_plain
    assert read_url("http://app.internal/", PRIVATE).is_plain  # its addresses are judged when it is sent to
    with pytest.raises(ValueError, match="is no public address"):
        read_url("http://8.8.8.8/", PRIVATE)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://app.example/hooks/a-secret", "https://app.example"),
        ("https://app.example:8443?key=a-secret", "https://app.example:8443"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_only_scheme_and_host_of_a_url_are_told(url: str, origin: str) -> None:
    assert origin_of(url) == origin
