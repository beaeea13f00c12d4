"""`/metrics`, for Prometheus: without a key, so on loopback alone, or at a port of its own.

Rules:
- On the service's own port only this machine is answered. A call that came through a proxy was made by
  somebody else, whatever its address says.
- At `EVERGRANT_METRICS_PORT` everybody is answered who can reach it: nothing else is there.
"""

from starlette.requests import Request
from starlette.responses import Response

from worker.http.calls import Service, limited, problem_of
from worker.http.probes import is_near
from worker.http.problems import Code, Problem

PATH = "/metrics"
OF_A_PROXY = ("forwarded", "via", "x-forwarded-for", "x-real-ip")


async def metrics_nearby(service: Service, request: Request) -> Response:
    """What is measured, for a caller on this machine."""
    if not is_near(request) or any(name in request.headers for name in OF_A_PROXY):
        detail = "metrics are told on loopback, or at EVERGRANT_METRICS_PORT"
        return Problem(Code.FORBIDDEN, detail).response()
    return await metrics(service, request)


async def metrics(service: Service, request: Request) -> Response:
    """What is measured, for whoever reaches this."""
    try:
        async with limited(service):
            text, media_type = await service.runtime.metrics.text(request.headers.get("accept", ""))
    except Exception as error:  # noqa: BLE001 each becomes a problem
        return problem_of(error, "metrics").response()
    return Response(text, headers={"content-type": media_type})
