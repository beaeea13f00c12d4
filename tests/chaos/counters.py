"""The counters of a scrape beside the provider's own count and the stored grants.

Rules:
- New tokens and their count are one step of the store. So the refreshes that are counted are the provider's
  rotations exactly, but for one of each grant that was lost.
- A change of a grant's status and the number of grants in that status are one step, too.
- A refusal is counted once; not at all only where a strike may have kept it from the store.
- What a process measures is added with its heartbeat. A kill takes some along; nothing is added twice.
- Other outcomes have no exact number: many of their requests never reached the provider.
"""

from collections import Counter
from collections.abc import Iterator

from tests.chaos.evidence import Evidence
from worker.core.grant import Status

REFRESHES = "evergrant_refreshes_total"
REFUSALS = ("rejected", "client_not_confirmed")
UNCALLED_FOR = ("client_rejected", "unread", "cannot_unseal")  # no plan has what leads to them


def counted(evidence: Evidence, *outcomes: str) -> int:
    """How many attempts a scrape tells that came to one of these."""
    return sum(
        int(value)
        for (name, *labels), value in evidence.samples.items()
        if name == REFRESHES and labels[1] in outcomes
    )


def miscounted(evidence: Evidence, *, lost: int, sure_refusals: int) -> Iterator[str]:
    """What a scrape tells that is not so, a line each.

    Args:
        lost: grants whose last rotation nobody has.
        sure_refusals: that no strike can have kept from the store.
    """
    rotations, refreshed = evidence.totals["refreshes"], counted(evidence, "refreshed")
    if refreshed != rotations - lost:
        yield f"{refreshed} refreshes counted; the provider has {rotations} rotations, {lost} of them lost"
    versions = sum(stored.grant.version for stored in evidence.grants.values())
    if refreshed != versions:
        yield f"{refreshed} refreshes counted; the versions of the stored grants come to {versions}"
    kept = Counter(stored.grant.status for stored in evidence.grants.values())
    for status in Status:
        told = _total(evidence, "evergrant_grants", status.value)
        if told != kept[status]:
            yield f"{told} grants told to be {status.value}; stored are {kept[status]}"
    refused, refusals = counted(evidence, *REFUSALS), evidence.refusals
    if not sure_refusals <= refused <= len(refusals):
        yield f"{refused} refusals counted; the provider has {len(refusals)}, {sure_refusals} of them sure"
    measured = _total(evidence, "evergrant_refresh_lateness_seconds_count")
    if measured > rotations:
        yield f"the lateness of {measured} refreshes measured; the provider has {rotations} rotations"
    for outcome in UNCALLED_FOR:
        if number := counted(evidence, outcome):
            yield f"{number} attempts counted as {outcome}; nothing called for it"


def _total(evidence: Evidence, name: str, *labels: str) -> int:
    """Of all clients."""
    return sum(
        int(value)
        for (told, *theirs), value in evidence.samples.items()
        if told == name and theirs[1:] == list(labels)
    )
