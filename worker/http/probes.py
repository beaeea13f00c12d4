"""Probes: is this process alive, and can it do its work? They need no key and tell nothing of grants."""

from http import HTTPStatus
from ipaddress import ip_address

from starlette.requests import Request
from starlette.responses import Response

from worker.core.ports import UnsealError
from worker.http.answering import as_json
from worker.http.calls import Service, problem_of

SAMPLE = 5  # grants whose tokens are tried with the keys


async def livez(_: Service, __: Request) -> Response:
    """It answers, so it lives: a restart would mend nothing."""
    return as_json({"status": "alive"})


async def readyz(service: Service, request: Request) -> Response:
    """Whether the store is there and recovered, and the keys open what is stored."""
    problems = [trouble] if (trouble := service.runtime.membership.trouble) else []
    if service.stopping.is_set():
        problems.append("this service is stopping")
    try:
        if not problems and not await _keys_open(service):
            problems.append("no sealing key here opens what is stored")
    except Exception as error:  # noqa: BLE001 a probe is answered, whatever comes
        problems.append(problem_of(error, "readyz").detail)
    if not problems:
        return as_json({"status": "ready"})
    told = {"problems": problems} if is_near(request) else {}
    return as_json({"status": "not_ready", **told}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _keys_open(service: Service) -> bool:
    """Whether a key opens any of a few grants; one grant's missing key is that grant's trouble alone."""
    runtime, tried = service.runtime, 0
    for client in (await runtime.fleet_state.client_names())[:SAMPLE]:
        page = await runtime.registry.page(client, "", SAMPLE, unreadable=_pass_over)
        for stored in page.grants:
            tried += 1
            try:
                runtime.deployment.keys.open(stored.grant)
            except UnsealError:
                continue
            return True
    return tried == 0


def _pass_over(_: Exception) -> None:
    """A record that cannot be read says nothing of the keys."""


def is_near(request: Request) -> bool:
    """Whether the caller is on this machine: to others no trouble is described."""
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
