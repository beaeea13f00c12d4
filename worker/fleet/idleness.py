"""Why nothing is tried for a client: the first thing that holds its grants back, and what to do about it.

'Are a worker and beat running' is asked only where no worker is seen.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from worker.core.events import rfc3339
from worker.core.registry import ClientState, Workers

OVERDUE_MS: Final = 60_000  # what has been due for longer is late
ARE_THEY_RUNNING: Final = "Are a worker and beat running, and can they reach Redis?"
START_A_WORKER: Final = "Beat is alive. Start a worker; if one runs, look why it does not reach Redis."


@dataclass(frozen=True, slots=True)
class Idleness:
    """Why nothing is tried.

    Attributes:
        why: as part of a sentence.
        advice: as sentences.
        needs_a_person: it does not end by itself.
    """

    why: str
    advice: str
    needs_a_person: bool


def why_idle(client: ClientState, workers: Workers, now: int) -> Idleness | None:
    """Why no worker tries the grants of a client now; `None` where nothing holds it back."""
    return next(_causes(client, workers, now), None)


def _causes(client: ClientState, workers: Workers, now: int) -> Iterator[Idleness]:
    if workers.refusal:
        yield Idleness(
            f"Redis refuses writes: {workers.refusal}",
            "Nothing is claimed or lost meanwhile. Mend that, and the workers go on by themselves.",
            needs_a_person=True,
        )
        return
    if workers.alive == 0:
        why = f"no worker is alive{_last_heard(workers.heard)}"
        advice = START_A_WORKER if workers.lives_a_beat(now) else ARE_THEY_RUNNING
        yield Idleness(why, advice, needs_a_person=True)
        return
    if workers.able == 0:
        trouble = next(iter(workers.troubles.values()), "")
        yield Idleness(
            f"no worker claims anything ({trouble})",
            "The workers are alive. Mend that, and they go on by themselves.",
            needs_a_person=True,
        )
    if workers.recovering_until is not None:
        yield Idleness(
            f"the store is recovering until {rfc3339(workers.recovering_until)} at the latest",
            "Nothing to do: workers give back what it may have lost, then go on.",
            needs_a_person=False,
        )
    if client.throttled_until is not None and client.throttled_until > now:
        yield Idleness(
            f"its token endpoint told it to wait until {rfc3339(client.throttled_until)}",
            "Nothing to do yet: a worker goes on then.",
            needs_a_person=False,
        )
    if client.next_due_at is None:
        yield Idleness(
            "none of its grants is in the schedule",
            "Nothing to do: they are paused, failed or never due. `evergrant grants resume` is a try.",
            needs_a_person=False,
        )
    if client.claimed_at is None or now - client.claimed_at > OVERDUE_MS:
        since = "" if client.claimed_at is None else f" since {rfc3339(client.claimed_at)}"
        if not workers.lives_a_beat(now):
            yield Idleness(
                f"no beat is alive{_last_heard(workers.beats)}, and so no worker is told to look{since}",
                f"Start beat. Workers are alive: {workers.alive}.",
                needs_a_person=True,
            )
            return
        yield Idleness(
            f"no worker has asked for its grants{since}, and {workers.alive} are alive",
            "Beat is alive: has it the workers' broker? Do the workers have this client's settings?",
            needs_a_person=True,
        )


def _last_heard(heard: Mapping[str, int]) -> str:
    """The last one of some processes, where there is one; those that ended in order left none."""
    if not heard:
        return ""
    name = max(heard, key=heard.__getitem__)
    return f": {name} was heard of last, at {rfc3339(heard[name])}"
