"""The doctor's round of the token endpoints: several at once, each once, and never for ever."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

from tests.support.waiting import PATIENCE_SECONDS
from worker.core.providers import OAUTH2, Client
from worker.core.reachability import Reach, Reached
from worker.fleet.examining import AT_ONCE, clients_by_url, examine, registered_twice

CLIENT = Client("acme", OAUTH2, "https://as.test/token", "id", ())


@dataclass
class Endpoints:
    """Endpoints that answer once as many as they wait for are asked at once."""

    waits_for: int
    asked: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def reach(self, client: Client) -> Reached:
        self.asked[client.token_url] += 1
        self.at_once += 1
        if self.at_once >= self.waits_for:
            self.enough.set()
        await self.enough.wait()
        self.at_once -= 1
        return Reached(Reach.ANSWERS, 400)


def _clients(number: int) -> list[Client]:
    return [replace(CLIENT, name=f"c{each}", token_url=f"https://as{each}.test") for each in range(number)]


async def test_several_are_asked_at_once_but_no_more_than_the_bound() -> None:
    endpoints = Endpoints(waits_for=AT_ONCE)

    async with asyncio.timeout(PATIENCE_SECONDS):
        found = await examine(endpoints, _clients(3 * AT_ONCE))

    assert set(found.values()) == {Reached(Reach.ANSWERS, 400)}
    assert len(found) == 3 * AT_ONCE


async def test_clients_that_share_an_endpoint_have_it_asked_once() -> None:
    endpoints = Endpoints(waits_for=1)
    twins = [CLIENT, replace(CLIENT, name="beta")]

    assert list(await examine(endpoints, twins)) == [CLIENT.token_url]
    assert endpoints.asked == {CLIENT.token_url: 1}
    assert clients_by_url(twins) == {CLIENT.token_url: ["acme", "beta"]}


async def test_what_does_not_answer_before_the_deadline_has_timed_out_and_is_asked_no_more() -> None:
    endpoints = Endpoints(waits_for=100)

    found = await examine(endpoints, _clients(AT_ONCE + 1), deadline_seconds=0.05)

    assert set(found.values()) == {Reached(Reach.TIMES_OUT)}
    assert len(found) == AT_ONCE + 1
    assert len(asyncio.all_tasks()) == 1


async def test_without_clients_nothing_is_asked() -> None:
    assert await examine(Endpoints(waits_for=1), []) == {}


def test_two_clients_that_are_one_registration_are_named_and_others_are_not() -> None:
    clients = [
        CLIENT,
        replace(CLIENT, name="copy"),
        replace(CLIENT, name="another", client_id="other"),
        replace(CLIENT, name="elsewhere", token_url="https://elsewhere.test"),
    ]

    assert list(registered_twice(clients)) == [["acme", "copy"]]
