"""RabbitMQ as the broker: everything works as with Redis."""

import subprocess
from collections.abc import Iterator
from typing import Any

import kombu
import pytest

from tests.support import rabbitmq
from tests.support.callables import Build
from tests.support.command import EVERGRANT
from tests.support.live import LiveDeployment
from tests.support.rabbitmq import RabbitMQ, running_rabbitmq

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not rabbitmq.is_installed(), reason="there is no RabbitMQ here (rabbitmq-server)"),
]

CANARY = "canary-of-a-message"


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitMQ]:
    with running_rabbitmq() as server:
        yield server


def _goes_on(live: LiveDeployment) -> None:
    before = live.refreshed()
    live.wait_until(lambda: live.refreshed() > before, "another refresh")


def _messages(broker: RabbitMQ) -> int:
    with kombu.Connection(broker.url) as connection:
        channel: Any = connection.default_channel
        declared = channel.queue_declare("evergrant", passive=True)
    waiting: int = declared.message_count
    return waiting


def test_grants_are_refreshed_over_rabbitmq_through_its_restart_and_foreign_messages(
    build: Build, broker: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=60)
    monkeypatch.setenv("EVERGRANT_BROKER_URL", broker.url)
    live.issue(60, spread_seconds=50)
    doctor = subprocess.run([EVERGRANT, "doctor"], check=False, capture_output=True, text=True)  # noqa: S603 our own
    assert "the broker is RabbitMQ" in doctor.stdout
    worker, beat = live.start_worker(), live.start_beat()
    _goes_on(live)

    with kombu.Connection(broker.url) as connection:
        producer = connection.Producer()
        producer.publish({"body": CANARY}, routing_key="evergrant")
        producer.publish(CANARY, routing_key="evergrant", headers={"task": "tasks.sweep", "id": CANARY})
        producer.publish(
            CANARY.encode(), routing_key="evergrant", content_type="application/x-python-serialize"
        )
        producer.publish({}, routing_key="evergrant", headers={"compression": CANARY})
    live.wait_until(
        lambda: live.log.read_text().count("broker.message_dropped") == 4, "four that were dropped"
    )
    _goes_on(live)

    broker.stop()
    live.wait_until(lambda: "beat.broker_away" in live.log.read_text(), "beat's complaint")
    broker.start()
    _goes_on(live)
    live.wait_until(lambda: _messages(broker) == 0, "an empty queue")

    assert worker.poll() is None
    assert beat.poll() is None
    assert CANARY not in live.log.read_text()
    live.stop()
    assert live.lost() == []


def test_grants_are_refreshed_over_rabbitmq_with_tls_if_its_authority_is_known(
    build: Build, broker: RabbitMQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = build(access_seconds=60)
    monkeypatch.setenv("EVERGRANT_BROKER_URL", broker.secure_url)
    live.issue(20, spread_seconds=50)
    stranger = live.start_beat()
    live.wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in live.log.read_text(), "a refused certificate")
    assert live.refreshed() == 0
    stranger.terminate()
    stranger.wait()

    monkeypatch.setenv("EVERGRANT_CA_FILE", str(broker.authority))
    worker, beat = live.start_worker(), live.start_beat()
    _goes_on(live)
    _goes_on(live)

    assert worker.poll() is None
    assert beat.poll() is None
    live.stop()
    assert live.lost() == []
