"""URLs of servers: what is read from them, what is refused, and what Celery's broker is told."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import certifi
import pytest
from kombu import Connection

from config import SettingsError, load_settings
from config.servers import Kind, Login, ServerUrl, read_server_url
from worker.runtime.connections import Broker, broker

SPECIAL = "p@ss:w/o?r#d%[]&=+ ,;é"
ENCODED = "p%40ss%3Aw%2Fo%3Fr%23d%25%5B%5D%26%3D%2B%20%2C%3B%C3%A9"


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("redis://h", ServerUrl(Kind.SINGLE, (("h", 6379),))),
        ("redis://h:1/", ServerUrl(Kind.SINGLE, (("h", 1),))),
        ("redis://h:1/7", ServerUrl(Kind.SINGLE, (("h", 1),), database=7)),
        ("redis://h?db=7", ServerUrl(Kind.SINGLE, (("h", 6379),), database=7)),
        ("redis://[::1]:7000", ServerUrl(Kind.SINGLE, (("::1", 7000),))),
        ("redis://[2001:db8::2]/1", ServerUrl(Kind.SINGLE, (("2001:db8::2", 6379),), database=1)),
        (
            f"redis://us%3Aer:{ENCODED}@h",
            ServerUrl(Kind.SINGLE, (("h", 6379),), login=Login("us:er", SPECIAL)),
        ),
        (f"redis://:{ENCODED}@h", ServerUrl(Kind.SINGLE, (("h", 6379),), login=Login(None, SPECIAL))),
        ("unix:///run/my%20redis.sock?db=2", ServerUrl(Kind.UNIX, path="/run/my redis.sock", database=2)),
        ("unix://u:p@/run/s", ServerUrl(Kind.UNIX, path="/run/s", login=Login("u", "p"))),
        ("unix:///s?password=p%40ss", ServerUrl(Kind.UNIX, path="/s", login=Login(None, "p@ss"))),
        (
            "sentinel://u:p@a,[::1]:2/my-primary?db=3&sentinel_username=su&sentinel_password=sp",
            ServerUrl(
                Kind.SENTINEL,
                (("a", 26379), ("::1", 2)),
                primary="my-primary",
                database=3,
                login=Login("u", "p"),
                sentinel_login=Login("su", "sp"),
            ),
        ),
        ("redis-cluster://a:1,b:2", ServerUrl(Kind.CLUSTER, (("a", 1), ("b", 2)))),
    ],
)
def test_a_url_is_read_as_it_is_meant(text: str, server: ServerUrl) -> None:
    assert read_server_url(text) == server


@pytest.mark.parametrize("scheme", ["rediss", "sentinels", "rediss-cluster"])
def test_tls_verifies_the_server_unless_the_url_says_otherwise(scheme: str) -> None:
    path = "/primary" if scheme == "sentinels" else ""
    found = []
    for options in "", "?ssl_check_hostname=false", "?ssl_cert_reqs=none":
        tls = read_server_url(f"{scheme}://h{path}{options}").tls
        assert tls is not None
        found.append((tls.verified, tls.checks_hostname))
    assert found == [(True, True), (True, False), (False, False)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://h", "takes a URL that begins with redis://, rediss://, unix://, sentinel://"),
        ("h:6379", "takes a URL that begins with"),
        ("redis://h/notadb", "takes a number as the database, as in redis://HOST:PORT/0"),
        ("redis://h?db=-1", "takes a number as the database"),
        ("redis://h/0?colour=red", "takes no option colour; there are db, username, password, ssl_ca_certs"),
        ("redis://h:port", "takes HOST or HOST:PORT"),
        ("redis://h:99999", "takes HOST or HOST:PORT"),
        ("redis://", "takes HOST or HOST:PORT"),
        ("redis://::1", "an IPv6 address in brackets"),
        ("redis://a,b", "takes one host"),
        ("redis://h?ssl_cert_reqs=none", "takes ssl_cert_reqs only with TLS"),
        ("redis://h?sentinel_password=x", "takes sentinel_password only with sentinel://"),
        ("rediss://h?ssl_cert_reqs=maybe", "takes required or none as ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=maybe", "takes true or false as ssl_check_hostname"),
        ("rediss://h?ssl_ca_certs=/nowhere.pem", "takes a file that can be read as ssl_ca_certs"),
        ("unix://", "takes the path of a socket"),
        ("unix://h/s", "takes the path of a socket"),
        ("sentinel://h", "takes the name of the primary after the Sentinels"),
        ("redis-cluster://h/1", "takes no database number"),
    ],
)
def test_a_wrong_url_is_one_line_that_says_what_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", url)
    with pytest.raises(SettingsError) as problem:
        load_settings()
    assert str(problem.value).startswith("EVERGRANT_REDIS_URL takes ")
    assert words in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    "place", ["redis://:{}@h", "redis://u:{}@h/0", "sentinel://:{}@h:1/m", "unix://:{}@/s"]
)
@pytest.mark.parametrize(
    "said_as",
    ["trout/pike", "trout?pike", "trout#pike", "trout@pike/x", "1/trout", "1?trout=x", "1?trout", "ü[trout"],
)
def test_no_piece_of_a_password_that_was_not_encoded_is_repeated(place: str, said_as: str) -> None:
    try:
        server = read_server_url(place.format(said_as))
    except ValueError as problem:
        said = str(problem)
    else:
        said = repr(server)
    assert "trout" not in said
    assert "pike" not in said


# The broker


@pytest.fixture
def broker_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Broker]:
    """What Celery is told of the broker under these settings."""

    def build(**settings: str) -> Broker:
        monkeypatch.chdir(tmp_path)
        for name, value in settings.items():
            monkeypatch.setenv(f"EVERGRANT_{name}", value)
        return broker(load_settings())

    return build


def kombu_of(told: Broker) -> Any:
    return Connection(told.url, ssl=told.tls or False, transport_options=told.options)


def test_a_broker_over_tls_is_verified_though_kombu_would_believe_any_certificate(
    broker_of: Callable[..., Broker],
) -> None:
    told = broker_of(BROKER_URL="rediss://redis.example.com:6379/0")
    assert told.tls is not None
    assert told.tls["ssl_cert_reqs"] is ssl.CERT_REQUIRED
    assert told.tls["ssl_check_hostname"] is True


def test_the_broker_is_the_store_unless_it_is_named(broker_of: Callable[..., Broker]) -> None:
    assert broker_of(REDIS_URL="redis://h/1").url == "redis://h:6379/1"
    assert broker_of(BROKER_URL="redis://other").url == "redis://other:6379/0"


@pytest.mark.parametrize("host", ["h", "[::1]"])
def test_celery_reads_in_its_url_what_was_meant(broker_of: Callable[..., Broker], host: str) -> None:
    read = kombu_of(broker_of(BROKER_URL=f"redis://us%3Aer:{ENCODED}@{host}:7000/3")).info()
    assert (read["hostname"], read["port"], read["virtual_host"]) == (host.strip("[]"), 7000, "3")
    assert (read["userid"], read["password"]) == ("us:er", SPECIAL)


def test_celery_is_told_every_sentinel_and_the_name_of_the_primary(broker_of: Callable[..., Broker]) -> None:
    told = broker_of(BROKER_URL="sentinel://u:p%3Bw@a:1,b:2/main?db=4&sentinel_password=s")
    read = kombu_of(told)
    assert told.url == "sentinel://u:p%3Bw@a:1/4;sentinel://u:p%3Bw@b:2/4"
    assert (told.options["master_name"], told.options["sentinel_kwargs"]["password"]) == ("main", "s")
    assert (read.userid, read.password, read.virtual_host) == ("u", "p;w", "4")


def test_a_cluster_needs_a_broker_beside_it(broker_of: Callable[..., Broker]) -> None:
    with pytest.raises(SettingsError, match=r"^EVERGRANT_BROKER_URL is missing: Celery cannot"):
        broker_of(REDIS_URL="redis-cluster://h")
    with pytest.raises(SettingsError, match=r"^EVERGRANT_BROKER_URL takes no cluster"):
        broker_of(REDIS_URL="redis://h", BROKER_URL="redis-cluster://h")
    assert broker_of(REDIS_URL="redis-cluster://h", BROKER_URL="redis://other").url == "redis://other:6379/0"


def test_what_is_told_to_celery_shows_no_password(broker_of: Callable[..., Broker]) -> None:
    told = broker_of(BROKER_URL="sentinel://:swordfish@h/m?sentinel_password=swordfish")
    assert "swordfish" not in repr(told)


def test_a_rabbitmq_over_tls_is_verified_by_its_name_and_the_authorities_of_the_settings(
    broker_of: Callable[..., Broker],
) -> None:
    authorities = str(certifi.where())
    told = broker_of(BROKER_URL="amqps://guest:guest@rabbit.example.com//", CA_FILE=authorities)

    assert told.url == "amqps://guest:guest@rabbit.example.com//"
    assert told.tls == {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None, "ca_certs": authorities}
    assert broker_of(BROKER_URL="amqp://rabbit.example.com").tls is None


@pytest.mark.parametrize("url", ["amqp://", "amqp://host:port/", "amqps://user:hunter2@h:0/v"])
def test_a_rabbitmq_that_is_nowhere_is_refused_without_its_password(
    url: str, broker_of: Callable[..., Broker]
) -> None:
    with pytest.raises(SettingsError, match="EVERGRANT_BROKER_URL") as refused:
        broker_of(BROKER_URL=url)

    assert "hunter2" not in str(refused.value)
