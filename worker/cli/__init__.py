"""`evergrant`: the command line.

    app.py        the commands, their errors and exit codes
    ending.py     how every command ends
    session.py    a command's connection to the deployment
    user.py       who runs a command
    output.py     JSON lines, columns and times as people read them
    grants.py     import, list, show, export
    operating.py  grants pause, resume, delete: one, or many
    revoking.py   grants revoke
    at_hand.py    token, where it is at hand
    tokens.py     token, grants refresh
    answers.py    replies that could not be read: list, show, adopt, drop
    events.py     the event stream
    audit.py      who did what
    status.py     the fleet at a glance
    health.py     probes: is this host's worker, beat or service alive?
    doctor.py     is everything in order?
    endpoints.py  what the doctor says of clients and their token endpoints
    keys.py       new sealing keys
    api_keys.py   keys of the HTTP service
    serve.py      the HTTP service
    children.py   worker and beat as child processes
    up.py         everything in one terminal
    first_process.py  what process 1 of a container has to do
    demo.py       a fleet against the sandbox, live
    demo_view.py  what the demo shows
    demo_application.py  who calls the provider's API in the demo

Modules that take long to load are imported by the commands that need them: `--help` is instant.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command that was typed and exit with its code."""
    if sys.argv[1:] in (["health", "worker"], ["health", "beat"], ["health", "web"]):
        from worker.cli.health import probe

        sys.exit(probe(sys.argv[2]))
    from worker.cli.ending import end_with

    end_with(_code_of_the_command)


def _code_of_the_command() -> int:
    if sys.argv[1:2] == ["token"]:
        from worker.cli.at_hand import handed_out_at_once

        if handed_out_at_once(sys.argv[2:]):
            return 0
    from worker.cli.app import run

    return run()
