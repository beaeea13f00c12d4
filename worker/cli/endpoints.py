"""What `evergrant doctor` says of the configured clients and their token endpoints."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from worker.core.reachability import Reached
    from worker.runtime.assembly import Runtime
    from worker.runtime.store_checks import Finding, Level

MOST_NAMED = 5  # clients, in one sentence


async def client_findings(runtime: "Runtime") -> "AsyncIterator[Finding]":
    """One finding for each token URL, and one for whatever is odd about a client."""
    from worker.fleet.examining import clients_by_url, examine, registered_twice
    from worker.runtime.store_checks import Finding, Level

    clients = list(runtime.clients)
    names = clients_by_url(clients)
    for url, reached in (await examine(runtime.endpoint, clients)).items():
        level, said = _sentence(reached)
        yield Finding(level, f"{_of_clients(names[url])}: {url} {said}")
    for twins in registered_twice(clients):
        yield Finding(
            Level.WARNING,
            f"{_of_clients(twins)} have one CLIENT_ID at one token endpoint: swapped or copied settings?",
        )
    for client in clients:
        if unknown := client.provider.unknown_among(client.scopes):
            listed = ", ".join(unknown)
            yield Finding(Level.WARNING, f"client {client.name}: scopes nobody documents: {listed}")


def _of_clients(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"client{'s' if len(names) > 1 else ''} {', '.join(names[:MOST_NAMED])}{more}"


def _sentence(reached: "Reached") -> "tuple[Level, str]":
    """How bad it is, and what to do, after the URL. No word of it is the server's."""
    from worker.core.reachability import Reach
    from worker.runtime.store_checks import Level

    status, ok, warning, bad = reached.status, Level.OK, Level.WARNING, Level.REFUSED
    sentences = {
        Reach.ANSWERS: (ok, "answers as a token endpoint does"),
        Reach.THROTTLES: (ok, "answers; it asks for fewer requests now"),
        Reach.REDIRECTS: (
            bad,
            f"redirects (HTTP {status}): this is not its URL, and tokens are never sent after a redirect",
        ),
        Reach.REDIRECTS_TO_SLASH: (
            bad,
            f"redirects (HTTP {status}) to the same URL with a slash at its end: write it with the slash",
        ),
        Reach.NOT_FOUND: (bad, f"is no token endpoint: HTTP {status}; look at the path"),
        Reach.NO_POST: (bad, f"is no token endpoint: it takes no POST (HTTP {status}); look at the path"),
        Reach.FORBIDS: (
            warning,
            f"forbids to be asked (HTTP {status}): something in front of it may keep this machine out",
        ),
        Reach.FAILS: (bad, f"fails (HTTP {status}): the provider may be out of order"),
        Reach.ANSWERS_OTHERWISE: (
            warning,
            f"answers HTTP {status}, but not as a token endpoint does: look at the URL",
        ),
        Reach.NO_TLS: (bad, "does not speak TLS: look at the port and at what is in front of it"),
        Reach.NOT_TRUSTED: (
            bad,
            "has a certificate that this machine does not trust, or one of another name",
        ),
        Reach.NO_CONNECTION: (bad, "cannot be reached: look at the name, the port and the network"),
        Reach.BREAKS_OFF: (bad, "cannot be reached: the connection ends without an HTTP reply"),
        Reach.TIMES_OUT: (bad, "does not answer in time"),
    }
    return sentences[reached.reach]
