"""What the refresher decides, without Redis, sockets or files, in time that passes only in its own sleeps."""

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Never, cast

import pytest

from tests.support.in_memory_store import InMemoryStore
from tests.support.virtual_time import VirtualTime
from worker.adapters.credentials import ClientSecretPost
from worker.adapters.sealing import KeyRing
from worker.core.grant import Grant, Status, TokenPair, lineage_of
from worker.core.outcomes import (
    AttemptOutcome,
    CannotUnseal,
    ClientRejected,
    LeaseTooShort,
    Outcome,
    Refreshed,
    Rejected,
    Reply,
    Unavailable,
    Unknown,
    Unread,
)
from worker.core.policy import Rules
from worker.core.ports import (
    AbandonedJournal,
    Claim,
    ClientCheck,
    Commit,
    DueClients,
    Entry,
    JournalError,
    Lease,
    RefreshReport,
    SignInStore,
    Verdict,
)
from worker.core.promises import Refusal as TokenRefusal
from worker.core.providers import OAUTH2, Client
from worker.refresher import Effort, Refresher
from worker.refreshing.answers import Answers

MINUTE_MS = 60_000
BEGAN_AT = 1_700_000_000_000
ACME = Client("acme", OAUTH2, "https://id.example.com/token", "id", (ClientSecretPost("secret"),))
TOKENS = Refreshed("a1", "r1", 3_600_000, None, None)
KEYS = KeyRing({"k1": bytes(32)})

UNREAD = Unread("http_200_not_json", Reply(200, {"x": "y"}, b"<tokens>"))

Answer = Outcome | Callable[[], Outcome]


@dataclass(slots=True)
class Endpoint:
    """An authorization server that says what the test has it say.

    Attributes:
        replies: to the next requests of each grant; the last one stays.
        otherwise: the reply to every other grant.
        checked: what it says of the client alone.
        presented: the refresh tokens that reached it, in order.
    """

    replies: dict[str, list[Answer]] = field(default_factory=dict)
    otherwise: Answer = TOKENS
    checked: ClientCheck = ClientCheck.UNKNOWN
    presented: list[str] = field(default_factory=list)

    async def refresh(self, client: Client, pair: TokenPair, now: int) -> Outcome:  # noqa: ARG002
        assert pair.refresh_token is not None
        self.presented.append(pair.refresh_token)
        replies = self.replies.get(pair.refresh_token, [self.otherwise])
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        return reply() if callable(reply) else reply

    async def check(self, client: Client, now: int) -> ClientCheck:  # noqa: ARG002
        return self.checked

    async def revoke(self, client: Client, pair: TokenPair, now: int) -> Never:
        raise AssertionError(f"{client.name} was to revoke {pair!r} at {now}")


@dataclass(slots=True)
class Disk:
    """A journal; it can be full or refuse what is written, and it looks at the store at every write."""

    store: InMemoryStore
    is_full: bool = False
    refuses: bool = False
    versions_at_write: list[int] = field(default_factory=list)
    acknowledged: list[Entry] = field(default_factory=list)

    async def reserve(self, answers: int) -> None:  # noqa: ARG002
        if self.is_full:
            raise JournalError("it is full")

    async def write(self, entry: Entry) -> None:
        if self.refuses:
            raise JournalError("it is full")
        self.versions_at_write.append(self.store.records[entry.change.grant.id].grant.version)

    def acknowledge(self, entry: Entry) -> None:
        self.acknowledged.append(entry)

    def read(self) -> list[Entry]:
        return []

    async def answer_to(self, lineage: bytes) -> Entry | None:  # noqa: ARG002
        return None

    async def sweep(self) -> None:
        pass


class NoOthers:
    """The journals of other processes, of which there are none."""

    def take_over(self, own: str) -> list[AbandonedJournal]:  # noqa: ARG002
        return []

    def look(self, own: str) -> None:
        pass

    async def answer_to(self, lineage: bytes) -> Entry | None:  # noqa: ARG002
        return None

    def sweep(self) -> None:
        pass


class OneClient:
    """The clients, all of them ACME."""

    def get(self, name: str, generation: int) -> Client:  # noqa: ARG002
        return ACME

    def reread(self, name: str) -> Client:  # noqa: ARG002
        return ACME

    def __iter__(self) -> Iterator[Client]:
        return iter((ACME,))

    def names(self) -> Collection[str]:
        return (ACME.name,)


@dataclass(slots=True)
class Witness:
    """Keeps the outcome of each refresh."""

    outcomes: list[AttemptOutcome] = field(default_factory=list)

    def claimed(self, client: Client, claim: Claim) -> None:
        pass

    def refreshed(self, report: RefreshReport) -> None:
        self.outcomes.append(report.outcome)

    def committed(self, commit: Commit, verdict: Verdict) -> None:
        pass

    def token_refused(self, client: str | None, refusal: TokenRefusal) -> None:
        pass

    def recovered(self, epoch: int, *, offered: int, repaired: int) -> None:
        pass


class Deployment:
    """A refresher on the double of the store, and what the test may look at."""

    def __init__(self) -> None:
        self.time = VirtualTime()
        self._looks = 0
        self.store = InMemoryStore(self.now, lease_ms=MINUTE_MS, probe_ms=MINUTE_MS)
        self.endpoint = Endpoint()
        self.disk = Disk(self.store)
        self.witness = Witness()
        answers = Answers(
            store=self.store,
            sign_ins=cast("SignInStore", None),  # nobody signs in here
            journal=self.disk,
            directory=NoOthers(),
            sealer=KEYS,
            observer=self.witness,
        )
        self.refresher = Refresher(
            store=self.store,
            endpoint=self.endpoint,
            sealer=KEYS,
            journal=self.disk,
            answers=answers,
            clients=OneClient(),
            clock=self,
            rules=Rules(),
            chance=lambda: 0.5,
            effort=Effort(in_flight=1, request_ms=10_000),
            observer=self.witness,
            is_away=lambda: False,
        )
        self.time.run(self._recover())

    async def _recover(self) -> None:
        await self.store.finish_recovery(await self.store.heartbeat(""))

    def now(self) -> int:
        """The store's clock. No two looks at it see the same instant."""
        self._looks += 1
        return BEGAN_AT + int(self.time.seconds * 1000) + self._looks

    def by_redis(self, at: int) -> int:
        """The same instant: nobody has set the clock."""
        return at

    def seed(self, *ids: str, keys: KeyRing = KEYS, refreshable: bool = True, **changes: object) -> None:
        """Put grants into the store, due, the first of them first; a refresh token is its grant's id."""
        for place, grant_id in enumerate(ids):
            grant = Grant(
                id=grant_id,
                client=ACME.name,
                status=Status.ACTIVE,
                version=0,
                lineage=lineage_of(grant_id, grant_id if refreshable else None),
                sealed=b"",
                issued_at=BEGAN_AT - 55 * MINUTE_MS,
                access_expires_at=BEGAN_AT + 5 * MINUTE_MS,
                refresh_issued_at=BEGAN_AT - 55 * MINUTE_MS,
                refresh_expires_at=None,
                authorized_at=None,
            )
            grant = replace(
                grant, sealed=keys.seal(grant, TokenPair("a0", grant_id if refreshable else None))
            )
            self.store.put(replace(grant, **changes), BEGAN_AT - MINUTE_MS + place)  # type: ignore[arg-type]

    def drain(self, stop: Callable[[], bool] = lambda: False) -> int:
        """Refresh what is due."""
        return self.time.run(self.refresher.drain("runner", stop))

    def refresh_one(self, grant_id: str) -> AttemptOutcome:
        """Refresh one grant on demand."""

        async def ask() -> AttemptOutcome:
            lease = await self.store.lease(grant_id)
            assert isinstance(lease, Lease)
            return await self.refresher.refresh_one(lease)

        return self.time.run(ask())

    def grant(self, grant_id: str) -> Grant:
        """A grant as it is stored."""
        return self.store.records[grant_id].grant

    def told(self) -> Counter[str]:
        """How often each type of event was emitted."""
        return Counter(event.type.value.removeprefix("evergrant.") for event in self.store.events)

    def unharmed(self, *ids: str) -> bool:
        """Whether these grants are as they were, not leased, and still in the schedule."""
        records = [self.store.records[grant_id] for grant_id in ids]
        return all(
            each.grant.status is Status.ACTIVE
            and each.grant.version == each.grant.streak == each.lease_until == 0
            and not each.grant.in_doubt
            and each.due_at is not None
            for each in records
        )


@pytest.fixture
def ours() -> Deployment:
    return Deployment()


def test_an_answer_is_on_the_disk_before_the_store_has_it_and_is_acknowledged_after(ours: Deployment) -> None:
    ours.seed("one")

    assert ours.drain() == 1

    assert ours.disk.versions_at_write == [0]
    assert [commit.change.grant.version for commit in ours.disk.acknowledged] == [1]
    assert ours.grant("one").version == 1
    assert ours.told() == {"grant.refreshed": 1}


def test_nothing_is_claimed_while_the_disk_has_no_room_for_an_answer(ours: Deployment) -> None:
    ours.seed("one")
    ours.disk.is_full = True

    assert ours.drain() == 0
    assert ours.unharmed("one")


def test_after_no_reply_the_same_token_is_sent_once_more_under_the_same_lease(
    ours: Deployment,
) -> None:
    ours.seed("one")
    ours.endpoint.replies["one"] = [Unknown("timeout"), TOKENS]

    ours.drain()

    assert ours.endpoint.presented == ["one", "one"]
    assert ours.time.seconds >= 0.5
    assert ours.store.records["one"].fence == 1
    assert ours.grant("one").version == 1


def test_a_reply_that_cannot_be_read_is_kept_its_token_not_sent_again_and_nothing_more_is_sent(
    ours: Deployment,
) -> None:
    ours.seed("one", "two", "three")
    ours.endpoint.replies["one"] = [UNREAD]

    ours.drain()
    ours.drain()

    assert ours.endpoint.presented == ["one"]
    (kept,) = ours.store.replies
    assert KEYS.open_reply(ACME.name, "one", 0, kept.sealed) == UNREAD.reply
    assert ours.disk.acknowledged == [kept]
    assert (ours.grant("one").status, ours.grant("one").reason) == (Status.FAILING, "reply_unread")
    assert ours.unharmed("two", "three")
    assert ours.told() == {"grant.failing": 1, "provider.unavailable": 1}


def test_a_reply_that_cannot_be_read_is_kept_even_on_a_full_disk(ours: Deployment) -> None:
    ours.seed("one")
    ours.disk.refuses = True
    ours.endpoint.replies["one"] = [UNREAD]

    ours.drain()

    assert ours.grant("one").kept_reply == 1


def test_a_second_reply_that_cannot_be_read_after_a_lost_first_one_is_kept(ours: Deployment) -> None:
    ours.seed("one")
    ours.endpoint.replies["one"] = [Unknown("timeout"), UNREAD]

    ours.drain()

    assert ours.endpoint.presented == ["one", "one"]
    assert len(ours.store.replies) == 1


def test_a_half_open_probe_that_cannot_be_read_recovers_nothing(ours: Deployment) -> None:
    ours.seed("one", "two")
    ours.endpoint.otherwise = UNREAD
    ours.drain()
    ours.time.run(asyncio.sleep(61))

    ours.drain()

    assert ours.endpoint.presented == ["one", "two"]
    assert ours.told() == {"grant.failing": 2, "provider.unavailable": 1}


def test_two_unreadable_replies_leave_the_grant_in_doubt_and_do_not_count_against_it(
    ours: Deployment,
) -> None:
    ours.seed("one")
    ours.endpoint.replies["one"] = [Unknown("timeout")]

    ours.drain(lambda: bool(ours.endpoint.presented))

    assert ours.grant("one").in_doubt
    assert ours.grant("one").status is Status.ACTIVE
    assert not ours.told()


def test_a_rejection_is_believed_only_when_it_comes_twice(ours: Deployment) -> None:
    ours.seed("one")
    ours.endpoint.replies["one"] = [Rejected("invalid_grant")]

    ours.drain()
    assert ours.grant("one").status is Status.FAILING
    ours.refresh_one("one")

    assert ours.grant("one").status is Status.FAILED
    assert ours.store.records["one"].due_at is None
    assert ours.told() == {"grant.failing": 1, "grant.failed": 1}


def test_a_rejection_after_a_lost_reply_says_that_the_reply_was_lost(ours: Deployment) -> None:
    ours.seed("one", status=Status.FAILING, streak=1, reason="rejected", in_doubt=True, rejected_at=1)
    ours.endpoint.replies["one"] = [Rejected("invalid_grant")]

    ours.refresh_one("one")

    assert (ours.grant("one").status, ours.grant("one").reason) == (Status.FAILED, "reply_lost")


def test_a_refused_client_is_paused_and_what_was_claimed_is_put_back_unsent(ours: Deployment) -> None:
    ours.seed("one", "two", "three")
    ours.endpoint.otherwise = ClientRejected("invalid_client")

    ours.drain()

    assert ours.endpoint.presented == ["one"]
    assert ours.unharmed("one", "two", "three")
    assert ours.told() == {"client.rejected": 1}
    assert ours.drain() == 0  # its probe is not due


@pytest.mark.parametrize(
    ("checked", "told"),
    [(ClientCheck.ACCEPTED, "grant.failing"), (ClientCheck.REJECTED, "client.rejected")],
)
def test_a_refusal_that_may_mean_grant_or_client_is_whose_the_check_of_the_client_says(
    ours: Deployment, checked: ClientCheck, told: str
) -> None:
    ours.seed("one")
    ours.endpoint.replies["one"] = [Rejected("http_401", ambiguous=True)]
    ours.endpoint.checked = checked

    ours.drain()

    assert ours.told() == {told: 1}
    assert ours.unharmed("one") is (checked is ClientCheck.REJECTED)


def test_a_client_that_is_refused_on_demand_is_not_paused(ours: Deployment) -> None:
    ours.seed("one")
    ours.endpoint.otherwise = ClientRejected("invalid_client")

    assert ours.refresh_one("one") == ClientRejected("invalid_client")
    assert ours.unharmed("one")
    assert not ours.told()


def test_failures_in_a_row_stop_the_drain_and_no_grant_is_the_worse(ours: Deployment) -> None:
    ids = [f"grant {number}" for number in range(8)]
    ours.seed(*ids)
    ours.endpoint.otherwise = Unavailable("http_503")

    ours.drain()

    assert ours.endpoint.presented == ids[:5]
    assert ours.unharmed(*ids)
    assert ours.told() == {"provider.unavailable": 1}


def test_one_readable_answer_to_a_half_open_probe_lets_the_endpoint_work_again(ours: Deployment) -> None:
    ours.seed(*(f"grant {number}" for number in range(8)))
    ours.endpoint.otherwise = Unavailable("http_503")
    ours.drain()
    ours.store.client(ACME.name).endpoint_probe_at = 1
    ours.endpoint.presented.clear()
    ours.endpoint.otherwise = TOKENS

    assert ours.drain() == 1  # the probe alone
    assert ours.told()["provider.recovered"] == 1
    assert ours.drain() >= 1


def test_a_failure_while_others_are_answered_counts_against_its_grant(ours: Deployment) -> None:
    ours.seed("one", "two")
    ours.endpoint.replies["one"] = [Unavailable("http_500")]

    ours.drain()
    ours.refresh_one("one")

    assert ours.grant("two").version == 1
    assert (ours.grant("one").status, ours.grant("one").reason) == (Status.FAILING, "unavailable")


def test_a_server_that_asks_to_wait_is_left_alone_and_nobody_is_at_fault(ours: Deployment) -> None:
    ours.seed("one", "two")
    ours.endpoint.otherwise = Unavailable("http_429", retry_after_ms=30_000)

    ours.drain()

    assert ours.endpoint.presented == ["one"]
    assert ours.unharmed("one", "two")
    assert not ours.told()


def test_nothing_is_sent_under_a_lease_that_would_end_before_the_reply(ours: Deployment) -> None:
    ours.seed("one")

    async def ask() -> AttemptOutcome:
        lease = await ours.store.lease("one")
        assert isinstance(lease, Lease)
        return await ours.refresher.refresh_one(replace(lease, until=ours.now() + 9_000))

    outcome = ours.time.run(ask())

    assert outcome == LeaseTooShort()
    assert ours.endpoint.presented == []
    assert ours.unharmed("one")


def test_a_stopping_drain_puts_back_what_it_has_not_sent(ours: Deployment) -> None:
    ours.seed("one", "two", "three")
    ours.endpoint.otherwise = TOKENS

    ours.drain(lambda: bool(ours.endpoint.presented))

    assert ours.endpoint.presented == ["one"]
    assert ours.grant("one").version == 1
    assert ours.unharmed("two", "three")


def test_grants_whose_key_is_missing_wait_for_it_and_nobody_is_told_of_each(ours: Deployment) -> None:
    ours.seed("one", "two", keys=KeyRing({"k2": bytes(range(32))}))

    assert ours.refresh_one("one") == CannotUnseal("k2")
    assert ours.unharmed("one")
    ours.drain()

    assert [(ours.grant(each).status, ours.grant(each).reason) for each in ("one", "two")] == [
        (Status.ACTIVE, "key_missing"),
        (Status.ACTIVE, "key_missing"),
    ]
    assert ours.told() == {}
    assert ours.endpoint.presented == []


def test_a_grant_that_waited_for_its_key_is_refreshed_once_it_is_back_as_if_nothing_had_been(
    ours: Deployment,
) -> None:
    ours.seed("one", reason="key_missing")
    ours.endpoint.otherwise = TOKENS

    ours.drain()

    assert (ours.grant("one").status, ours.grant("one").reason) == (Status.ACTIVE, None)
    assert ours.told() == {"grant.refreshed": 1}


def test_an_outage_after_its_key_came_back_is_not_called_a_missing_key(ours: Deployment) -> None:
    ours.seed("one", reason="key_missing")
    ours.endpoint.otherwise = Unavailable("http_503")

    ours.drain()

    assert (ours.grant("one").status, ours.grant("one").reason) == (Status.ACTIVE, None)


def test_tokens_that_were_changed_are_the_grants_failure(ours: Deployment) -> None:
    ours.seed("other")
    ours.seed("one", sealed=ours.grant("other").sealed)

    ours.drain()

    assert (ours.grant("one").status, ours.grant("one").reason) == (Status.FAILING, "cannot_unseal")
    assert ours.told() == {"grant.failing": 1, "grant.refreshed": 1}


def test_a_grant_that_cannot_be_refreshed_is_announced_before_its_end_and_expires_at_it(
    ours: Deployment,
) -> None:
    ours.seed("one", refreshable=False)

    ours.drain()
    assert ours.told() == {"grant.expiring": 1}
    ours.time.run(asyncio.sleep(6 * 60))
    ours.drain()

    assert ours.endpoint.presented == []
    assert ours.grant("one").status is Status.FAILED
    assert ours.told() == {"grant.expiring": 1, "grant.failed": 1}


def test_a_store_that_says_late_who_is_due_holds_up_no_claim(
    ours: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [f"grant-{number}" for number in range(10)]
    ours.seed(*ids)
    answered_at: list[float] = []

    def answer() -> Outcome:
        answered_at.append(ours.time.seconds)
        return TOKENS

    for grant_id in ids:
        ours.endpoint.replies[grant_id] = [Unknown("timeout"), answer]  # so that each takes half a second
    due_clients, asked = ours.store.due_clients, []

    async def late_but_at_first(offset: int, limit: int) -> DueClients:
        asked.append(ours.time.seconds)
        await asyncio.sleep(0 if len(asked) == 1 else 600)
        return await due_clients(offset, limit)

    monkeypatch.setattr(ours.store, "due_clients", late_but_at_first)

    assert ours.drain() == len(ids)

    assert len(answered_at) == len(ids)
    assert asked[1] < answered_at[-1] < 60
