"""`evergrant serve`: the HTTP service."""

from worker.cli.first_process import go_on_in_second_process
from worker.cli.session import BAD_STATE, SETTINGS, UNREACHABLE, CommandError, settings


def serve() -> None:
    """Serve the HTTP API and the console until Ctrl-C or SIGTERM; what is in flight is finished first.

    EVERGRANT_HTTP_HOST and EVERGRANT_HTTP_PORT say where: 127.0.0.1, port 8000. docs/http.md has the calls,
    docs/console.md what a person sees at /; `evergrant api-keys new` makes a key. Several may run, beside
    workers or without. Prometheus scrapes /metrics on loopback, or at EVERGRANT_METRICS_PORT from elsewhere;
    docs/metrics.md has the metrics.

    Example: evergrant serve
    """
    from contextlib import nullcontext

    import structlog

    from config import SettingsError
    from config.logging import configure_logging
    from worker.http import serving
    from worker.runtime.deployment import EmbeddedServerError, deploy, embedded_server
    from worker.runtime.store_checks import check_store

    go_on_in_second_process()
    chosen = settings()
    configure_logging(chosen.log_level, chosen.log_format)
    log = structlog.get_logger(__name__)

    def tell(line: str) -> None:
        log.warning("notice", said=line)

    try:
        deployment = deploy(chosen, tell)
        listening = serving.listen(chosen.http_host, chosen.http_port)
        for_metrics = None
        if chosen.metrics_port is not None:
            names = "EVERGRANT_HTTP_HOST and EVERGRANT_METRICS_PORT"
            for_metrics = serving.listen(chosen.http_host, chosen.metrics_port, names)
        with listening, for_metrics or nullcontext(), embedded_server(chosen) or nullcontext():
            warnings = check_store(deployment)
            for warning in [*deployment.warnings, *warnings, *serving.warnings_of(listening)]:
                tell(warning)
            serving.run(lambda: serving.serve(deployment, warnings, listening, for_metrics))
    except SettingsError as problem:
        raise CommandError(str(problem), SETTINGS) from None
    except serving.ListenError as problem:
        raise CommandError(str(problem), BAD_STATE) from None
    except EmbeddedServerError as problem:
        raise CommandError(str(problem), UNREACHABLE) from None
