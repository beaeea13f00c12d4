"""Who may send next, and how much may be leased for it."""

import pytest

from worker.refreshing.slots import AHEAD, FIRST, UNTRIED, WORTH_A_CLAIM, Slots

DEADLINE = 10.0
QUICK = 0.01


class Process:
    """Slots with clients that always have more to send, and a clock that is turned by hand."""

    def __init__(self, total: int = 100) -> None:
        self.slots = Slots(total, DEADLINE)
        self.total = total
        self.now = 1_000.0
        self.sent: dict[str, list[float]] = {}

    def answer_often(self, url: str, seconds: float = QUICK) -> None:
        """Let an endpoint come to its full pace, each answer taking so long."""
        pace = self.slots.pace(url)
        while pace.limit < self.total:
            for _ in range(pace.limit):
                pace.take(self.now)
            sent_at, self.now = self.now, self.now + seconds
            for _ in range(pace.in_flight):
                pace.answered(sent_at, self.now)
                pace.free()

    def want(self, client: str, url: str, number: int = 300) -> None:
        """Lease so many grants, without asking whether there is room."""
        self.slots.lease(client, url, number, self.now)

    def send(self, *waiting: tuple[str, str]) -> None:
        """Give slots to those that wait, until none may send."""
        while chosen := self.slots.next(waiting, self.now):
            self.slots.take(*chosen, self.now)
            self.sent.setdefault(chosen[0], []).append(self.now)

    def in_flight(self, client: str) -> int:
        """How many requests of a client are in flight."""
        return len(self.sent.get(client, []))

    def end(self, client: str, url: str, *, answered: bool = True, number: int = 1) -> None:
        """Let requests of a client come to their end."""
        for _ in range(number):
            sent_at, pace = self.sent[client].pop(0), self.slots.pace(url)
            if answered:
                pace.answered(sent_at, self.now)
            else:
                pace.failed(sent_at, self.now)
            self.slots.free(client, url, self.now)
            self.slots.lease(client, url, -1, self.now)

    def room(self, client: str, url: str, *, ahead: bool = True, being_stored: int = 0) -> int:
        """How many more grants may be leased."""
        return self.slots.room(client, url, self.now, being_stored=being_stored, ahead=ahead)


def test_an_endpoint_that_has_not_answered_yet_is_sent_a_few() -> None:
    process = Process()
    process.want("a", "A")

    process.send(("a", "A"))

    assert process.in_flight("a") == UNTRIED


def test_with_each_round_of_quick_answers_twice_as_many_are_sent_up_to_all_slots() -> None:
    process = Process()
    process.want("a", "A", 1_000)
    seen = []
    for _ in range(7):
        process.send(("a", "A"))
        seen.append(process.in_flight("a"))
        process.now += QUICK
        for _ in range(seen[-1]):
            process.end("a", "A")
            process.send(("a", "A"))

    assert seen == [2, 6, 12, 24, 48, 96, 100]


def test_an_endpoint_that_has_few_in_flight_earns_no_more() -> None:
    process = Process()
    for _ in range(50):
        process.want("a", "A", 1)
        process.slots.take("a", "A", process.now)
        process.sent.setdefault("a", []).append(process.now)
        process.end("a", "A")

    assert process.slots.pace("A").limit <= 2 * FIRST


def test_a_hundred_endpoints_that_hang_leave_three_quarters_of_the_slots() -> None:
    process = Process()
    hanging = [(f"h{place}", f"H{place}") for place in range(100)]
    process.answer_often("A")
    for client, url in (*hanging, ("a", "A")):
        process.want(client, url)

    process.send(*hanging)
    process.send(("a", "A"))

    assert sum(process.in_flight(client) for client, _ in hanging) == 25
    assert process.in_flight("a") == 75


def test_those_that_have_not_answered_get_their_part_though_another_has_taken_all() -> None:
    process = Process()
    process.answer_often("A")
    process.want("a", "A")
    process.want("new", "N")
    process.send(("a", "A"))
    assert process.in_flight("a") == 100

    process.end("a", "A", number=10)
    process.send(("a", "A"), ("new", "N"))

    assert (process.in_flight("new"), process.in_flight("a")) == (UNTRIED, 98)


def test_what_an_endpoint_that_stopped_answering_has_in_flight_takes_nothing_from_the_others() -> None:
    process = Process()
    process.answer_often("H")
    process.answer_often("A")
    process.want("h", "H")
    process.send(("h", "H"))
    process.want("a", "A")
    process.send(("a", "A"))
    assert (process.in_flight("h"), process.in_flight("a")) == (100, 0)

    process.now += DEADLINE / 4 + QUICK  # not one answer meanwhile
    process.send(("h", "H"), ("a", "A"))

    assert (process.in_flight("h"), process.in_flight("a")) == (100, 75)


def test_a_healthy_endpoint_is_tried_in_seconds_beside_a_hundred_that_hang() -> None:
    process = Process()
    hanging = [(f"h{place}", f"H{place}") for place in range(100)]
    for client, url in (*hanging, ("new", "N")):
        process.want(client, url, 1)
    waiting = [*hanging, ("new", "N")]
    seconds = 0.0
    while not process.in_flight("new") and seconds < 60:
        process.send(*(each for each in waiting if not process.in_flight(each[0])))
        process.now += 1
        seconds += 1

    assert seconds <= 15


def test_however_many_hang_one_after_the_other_they_leave_three_quarters_of_the_slots() -> None:
    process = Process()
    hanging = [(f"h{place}", f"H{place}") for place in range(500)]
    for client, url in hanging:
        process.want(client, url)
    for _ in range(40):
        process.send(*hanging)
        process.now += 1

    assert sum(process.in_flight(client) for client, _ in hanging) == 125
    process.answer_often("A")
    process.want("a", "A")
    process.send(("a", "A"))
    assert process.in_flight("a") == 75


def test_an_endpoint_in_trouble_is_sent_a_few() -> None:
    process = Process()
    process.answer_often("A")
    process.slots.pace("A").failed(process.now, process.now)
    process.want("a", "A")

    process.send(("a", "A"))

    assert process.in_flight("a") == FIRST


def test_never_more_than_twice_the_slots_are_in_flight() -> None:
    process = Process(total=10)
    for url in "ABCD":
        process.answer_often(url)
        process.want(url.lower(), url)
        process.send((url.lower(), url))
        process.now += DEADLINE / 4 + QUICK

    assert sum(process.in_flight(client) for client in "abcd") == 20


def test_the_client_with_the_fewest_in_flight_is_next_and_takes_what_others_leave() -> None:
    process = Process()
    waiting = [("big", "A"), ("small", "A"), ("other", "B")]
    for url in "AB":
        process.answer_often(url)
    for client, url in waiting:
        process.want(client, url)

    process.send(*waiting)

    assert sorted(process.in_flight(client) for client, _ in waiting) == [33, 33, 34]
    process.end("small", "A", number=30)
    process.send(("big", "A"))
    assert process.in_flight("big") >= 63


def test_a_failure_halves_what_is_sent_once_a_round() -> None:
    process = Process()
    process.answer_often("A")
    process.want("a", "A")
    process.send(("a", "A"))
    process.now += QUICK
    process.end("a", "A", answered=False, number=50)  # all of them left before the first failure was known

    assert process.slots.pace("A").limit == 50


@pytest.mark.parametrize(
    ("least", "took", "limit"),
    [
        pytest.param(0.01, 2.4, 100, id="within-a-quarter-of-the-deadline"),
        pytest.param(0.01, 2.6, 50, id="slow"),
        pytest.param(3.0, 5.9, 100, id="a-server-that-always-takes-its-time"),
        pytest.param(3.0, 6.1, 50, id="one-that-takes-twice-as-long-as-alone"),
    ],
)
def test_a_slow_answer_halves_what_is_sent(least: float, took: float, limit: int) -> None:
    process = Process()
    pace = process.slots.pace("A")
    process.answer_often("A", least)
    process.now += took

    pace.answered(process.now - took, process.now)

    assert pace.limit == limit


def test_after_a_setback_one_more_a_round_is_sent() -> None:
    process = Process()
    process.answer_often("A")
    process.slots.pace("A").failed(process.now, process.now)
    process.now += QUICK
    process.want("a", "A", 1_000)
    process.slots.pace("A").answered(process.now - QUICK, process.now)
    seen = []
    for _ in range(3):
        process.send(("a", "A"))
        seen.append(process.in_flight("a"))
        process.now += QUICK
        for _ in range(seen[-1]):
            process.end("a", "A")
            process.send(("a", "A"))

    assert seen == [50, 50, 51]


def test_one_request_at_once_is_always_sent() -> None:
    process = Process()
    for _ in range(20):
        process.now += 1
        process.slots.pace("A").failed(process.now, process.now)
    process.want("a", "A")

    process.send(("a", "A"))

    assert process.in_flight("a") == 1


def test_an_endpoint_that_was_not_asked_lately_begins_with_a_few_again() -> None:
    process = Process()
    process.answer_often("A")
    process.want("a", "A")

    process.now += 31
    process.send(("a", "A"))

    assert process.in_flight("a") == UNTRIED


def test_nothing_is_leased_ahead_of_an_endpoint_that_does_not_answer() -> None:
    process = Process()

    assert process.room("a", "A") == UNTRIED
    process.want("a", "A", UNTRIED)
    assert process.room("a", "A") == 0
    assert process.room("tenant", "A") == 0
    assert process.room("b", "B") == UNTRIED


def test_endpoints_that_do_not_answer_are_leased_no_more_than_their_part_together() -> None:
    process = Process()
    for place in range(100):
        process.want(f"h{place}", f"H{place}", process.room(f"h{place}", f"H{place}"))

    assert sum(process.slots.pace(f"H{place}").leased for place in range(100)) == 25


def test_what_an_endpoint_that_answers_can_send_soon_is_leased_ahead_but_not_under_a_rate_limit() -> None:
    process = Process()
    process.answer_often("A")

    assert process.room("a", "A") == 100 + AHEAD
    assert process.room("a", "A", ahead=False) == 100


def test_less_than_is_worth_a_claim_is_not_claimed() -> None:
    process = Process()
    process.answer_often("A")
    process.want("a", "A", 300 - WORTH_A_CLAIM + 1)
    assert process.room("a", "A") == 0

    process.slots.lease("a", "A", -1, process.now)
    assert process.room("a", "A") == WORTH_A_CLAIM


def test_a_client_leases_its_share_of_what_all_may_lease() -> None:
    process = Process()
    for url in "AB":
        process.answer_often(url)
    process.want("a", "A", 200)

    assert process.room("a", "A") == 100
    process.want("b", "B", 50)
    assert process.room("a", "A") == 0
    assert process.room("b", "B") == 50


def test_answers_that_wait_for_the_store_have_a_limit_of_their_own() -> None:
    process = Process()
    process.answer_often("A")
    process.want("a", "A", 100)

    assert process.room("a", "A", being_stored=200) == 200
    assert process.room("a", "A", being_stored=300) == 100
    assert process.room("a", "A", being_stored=400) == 0


def test_it_is_known_whether_anything_hangs() -> None:
    process = Process()
    process.answer_often("A")
    process.want("a", "A", 1)
    process.send(("a", "A"))
    assert not process.slots.hang(process.now)

    process.now += DEADLINE / 4 + QUICK
    assert process.slots.hang(process.now)
    process.end("a", "A")
    assert not process.slots.hang(process.now)


def test_an_endpoint_answered_last_until_it_fails_or_is_silent_however_long_ago_that_was() -> None:
    process = Process()
    pace = process.slots.pace("A")
    assert not pace.answered_last(process.now)  # it was never asked

    pace.answered(process.now, process.now)
    process.now += 86_400
    assert pace.answered_last(process.now)

    pace.take(process.now)
    assert not pace.answered_last(process.now + DEADLINE / 4 + QUICK)

    pace.failed(process.now, process.now + DEADLINE)
    pace.free()
    assert not pace.answered_last(process.now + 86_400)
