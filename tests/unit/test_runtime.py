"""How settings become what libraries take."""

import ssl
from pathlib import Path

import pytest

from config import load_settings
from worker.runtime.connections import broker_tls
from worker.runtime.deployment import deploy
from worker.runtime.timing import longest_run_seconds


def test_a_broker_over_tls_is_verified_though_kombu_would_believe_any_certificate() -> None:
    tls = broker_tls("rediss://redis.example.com:6379/0")
    assert tls == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": True}


@pytest.mark.parametrize(
    "url", ["redis://h", "redis+socket:///s", "rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/ca.pem"]
)
def test_a_broker_without_tls_or_with_its_own_say_is_left_alone(url: str) -> None:
    assert broker_tls(url) is None


def test_what_a_deployment_shows_of_itself_holds_no_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_REDIS_URL", "redis://:swordfish@127.0.0.1:1/0")
    monkeypatch.setenv("EVERGRANT_KEYS", "k1:" + "A" * 43 + "=")
    deployment = deploy(load_settings(), lambda _: None)
    assert "swordfish" not in repr(deployment)


def test_no_task_is_ended_before_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERGRANT_HTTP_TIMEOUT_SECONDS", "60")
    settings = load_settings()
    # Claims for ten seconds, then two requests and a check, then three outcomes for a store that is away.
    assert longest_run_seconds(settings) > 10 + 3 * 60 + 3 * 15
