"""`evergrant up`: embedded server, worker, beat and the HTTP service in one terminal."""

import signal
import threading

from worker.cli.first_process import go_on_in_second_process
from worker.cli.output import note
from worker.cli.session import SETTINGS, UNREACHABLE, CommandError, settings

LOOK_SECONDS = 0.5


def up() -> None:
    """Run everything in one terminal until Ctrl-C: the embedded server, a worker, beat and the HTTP service.

    Makes an admin API key in EVERGRANT_DATA_DIR/admin-key at its first start.

    Example: evergrant up
    """
    from contextlib import nullcontext

    from config import SettingsError
    from worker.cli.children import BEAT, WEB, WORKER, Children, SettingsRefusedError
    from worker.core.ports import StoreUnavailableError
    from worker.http import serving
    from worker.runtime.admin_key import have_admin_key
    from worker.runtime.deployment import EmbeddedServerError, deploy, embedded_server
    from worker.runtime.store_checks import reach_store
    from worker.runtime.timing import in_flight_seconds

    go_on_in_second_process()
    chosen = settings()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    children = Children(stop_seconds=2 * in_flight_seconds(chosen), tell=_tell)
    try:
        deployment = deploy(chosen, _tell)
        serving.listen(chosen.http_host, chosen.http_port).close()  # else web would be started for ever
        with embedded_server(chosen) or nullcontext() as server:
            reach_store(deployment)
            have_admin_key(deployment, _tell)
            try:
                children.start("worker", WORKER)
                children.start("beat", BEAT)
                children.start("web", WEB)
                place = (
                    f"at http://{chosen.http_host}:{chosen.http_port}"
                    if chosen.http_port
                    else "at a free port"
                )
                note(f"evergrant: worker and beat are running, web {place}; Ctrl-C stops them")
                while not stopping.wait(LOOK_SECONDS):
                    if server is not None:
                        server.keep_running(_tell)
                    children.look_after()
            finally:
                children.stop()
    except SettingsError as problem:
        raise CommandError(str(problem), SETTINGS) from None
    except EmbeddedServerError as problem:
        raise CommandError(str(problem), UNREACHABLE) from None
    except StoreUnavailableError as problem:
        raise CommandError(f"EVERGRANT_REDIS_URL cannot be reached: {problem}", UNREACHABLE) from None
    except (SettingsRefusedError, serving.ListenError) as problem:
        raise CommandError(str(problem), SETTINGS) from None
    note("evergrant: stopped")


def _tell(line: str) -> None:
    note(f"evergrant: {line}")
