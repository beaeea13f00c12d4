"""`evergrant`: the command line.

    app.py        the commands, their errors and exit codes
    session.py    a command's connection to the deployment
    output.py     JSON lines, columns and times as people read them
    grants.py     import, list, show, export, pause, resume, delete
    tokens.py     token, grants refresh
    events.py     the event stream
    status.py     the fleet at a glance
    doctor.py     is everything in order?
    keys.py       new sealing keys
    children.py   worker and beat as child processes
    up.py         everything in one terminal
    demo.py       a fleet against the sandbox, live
    demo_view.py  what the demo shows

Modules that take long to load are imported by the commands that need them: `--help` is instant.
"""

from worker.cli.app import main

__all__ = ["main"]
