"""Measures in the text formats of Prometheus and OpenMetrics, made by `prometheus-client`.

Rules:
- docs/metrics.md is the contract: names and labels stand there and here. None is by grant.
- Instants are Unix seconds. What never was, or never will be, has no sample.
- The registry is made for one scrape: the library's own global one tells of this process, not of the fleet.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from worker.core.measures import ClientMeasures, FleetMeasures, Histogram
from worker.core.outcomes import REFRESHED

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MS: Final = 1000
OF_CLIENT: Final = ("client",)


def expose(measures: FleetMeasures, accept: str = "") -> tuple[bytes, str]:
    """The text of the kind that an `Accept` header asks for, and its media type."""
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 a worker does without it
    from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 the same

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(measures))
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type


class _Collector:
    """One scrape's metrics, as `prometheus-client` asks for them."""

    def __init__(self, measures: FleetMeasures) -> None:
        self._measures = measures

    def collect(self) -> "Iterator[Metric]":
        yield from _of_clients(self._measures.clients)
        yield from _of_counts(self._measures)
        yield from _of_the_fleet(self._measures)


def _of_clients(clients: Iterable[ClientMeasures]) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily  # noqa: PLC0415 as above

    grants = GaugeMetricFamily(
        "evergrant_grants", "Grants in the store, by status.", labels=("client", "status")
    )
    due = GaugeMetricFamily(
        "evergrant_grants_due", "Grants that are due and wait to be refreshed.", labels=OF_CLIENT
    )
    oldest = GaugeMetricFamily(
        "evergrant_oldest_due_timestamp_seconds",
        "When the first grant in the schedule is due; in the past if it is waiting.",
        labels=OF_CLIENT,
    )
    soonest = GaugeMetricFamily(
        "evergrant_soonest_expiry_timestamp_seconds",
        "The first end of an access token, among the grants that are due first.",
        labels=OF_CLIENT,
    )
    accepted = GaugeMetricFamily(
        "evergrant_client_accepted",
        "1 unless the provider rejects the client's credentials.",
        labels=OF_CLIENT,
    )
    available = GaugeMetricFamily(
        "evergrant_provider_available",
        "1 unless the token endpoint gives no usable answers.",
        labels=("endpoint",),
    )
    endpoints: dict[str, bool] = {}
    for client in clients:
        name = (client.name,)
        for status, number in client.grants.items():
            grants.add_metric((client.name, status.value), number)
        due.add_metric(name, client.due)
        if client.first_due_at is not None:
            oldest.add_metric(name, client.first_due_at / MS)
        if client.soonest_expiry_at is not None:
            soonest.add_metric(name, client.soonest_expiry_at / MS)
        accepted.add_metric(name, client.is_accepted)
        if client.endpoint:
            endpoint = _without_secrets(client.endpoint)
            endpoints[endpoint] = endpoints.get(endpoint, True) and client.is_available
    for endpoint, is_available in sorted(endpoints.items()):
        available.add_metric((endpoint,), is_available)
    yield from (grants, due, oldest, soonest, accepted, available)


def _of_counts(measures: FleetMeasures) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily  # noqa: PLC0415 as above

    refreshes = CounterMetricFamily(
        "evergrant_refreshes", "Attempts to refresh a grant, by outcome.", labels=("client", "outcome")
    )
    late = CounterMetricFamily(
        "evergrant_refreshes_late", "Refreshes after the old access token had ended.", labels=OF_CLIENT
    )
    served = CounterMetricFamily(
        "evergrant_tokens_served", "Calls for a token, by outcome.", labels=("client", "outcome")
    )
    unsealed = CounterMetricFamily(
        "evergrant_unseal_failures", "Attempts for which a sealing key was missing.", labels=("key",)
    )
    for client in measures.clients:
        refreshes.add_metric((client.name, REFRESHED), client.refreshed)
        for outcome, number in sorted(client.refreshes.items()):
            refreshes.add_metric((client.name, outcome), number)
        late.add_metric((client.name,), client.late)
        for outcome, number in sorted(client.served.items()):
            served.add_metric((client.name, outcome), number)
    for outcome, number in sorted(measures.served.items()):
        served.add_metric(("", outcome), number)
    for key, number in sorted(measures.unsealed.items()):
        unsealed.add_metric((key,), number)
    yield from (refreshes, late, served, unsealed)


def _of_the_fleet(measures: FleetMeasures) -> "Iterator[Metric]":
    from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily  # noqa: PLC0415 as above

    yield _histogram(
        "evergrant_refresh_lateness_seconds",
        "From when a grant came due until its new tokens went to the store.",
        measures.lateness,
    )
    yield _histogram(
        "evergrant_refresh_duration_seconds",
        "From when a refresh was taken up until its outcome went to the store.",
        measures.duration,
    )
    undelivered = GaugeMetricFamily(
        "evergrant_webhook_oldest_undelivered_timestamp_seconds",
        "When the oldest event was emitted that a webhook has not taken.",
        labels=("webhook",),
    )
    for webhook, at in sorted(measures.undelivered.items()):
        undelivered.add_metric((webhook,), at / MS)
    yield undelivered
    for name, meaning, value in (
        ("evergrant_workers", "Worker processes whose heartbeat is fresh.", measures.workers),
        (
            "evergrant_last_sweep_timestamp_seconds",
            "When due grants were last looked for.",
            None if measures.swept_at is None else measures.swept_at / MS,
        ),
        (
            "evergrant_grants_unreadable",
            "Grants whose records could not be read.",
            measures.unreadable,
        ),
        (
            "evergrant_answers_untaken",
            "Grants whose new tokens the store fails to take; a worker's journal has them.",
            measures.untaken,
        ),
        (
            "evergrant_clients_unreadable",
            "Clients of which something in the store cannot be read: they are missing here.",
            measures.unread_clients,
        ),
        ("evergrant_store_memory_used_bytes", "Memory that the store's server uses.", measures.memory_used),
        (
            "evergrant_store_memory_limit_bytes",
            "Memory that the store's server may use, where it has a limit.",
            measures.memory_limit,
        ),
    ):
        gauge = GaugeMetricFamily(name, meaning)
        if value is not None:
            gauge.add_metric((), value)
        yield gauge
    yield InfoMetricFamily(
        "evergrant_build", "The release that tells this.", value={"version": version("evergrant")}
    )


def _histogram(name: str, meaning: str, histogram: Histogram) -> "Metric":
    from prometheus_client.core import HistogramMetricFamily  # noqa: PLC0415 as above

    return HistogramMetricFamily(
        name, meaning, buckets=histogram.cumulative(), sum_value=histogram.sum_ms / MS
    )


def _without_secrets(url: str) -> str:
    """A token endpoint without what may be nobody's business: a login, a query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
