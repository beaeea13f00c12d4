"""The duties of a container's first process.

The kernel makes process 1 the parent of every orphan, and gives it no signal that it has no handler for.
So `evergrant up` as process 1 leaves this one in place and does its work in a second process.
"""

import os
import signal
import sys
from typing import Final

FORWARDED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
BY_SIGNAL: Final = 128  # the exit code of a process that a signal ended is this and the signal's number


def go_on_in_second_process() -> None:
    """As process 1: go on in a child, forward signals to it, bury orphans, and exit as it does."""
    if os.getpid() != 1:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)  # none may come before there is a handler
    child = os.fork()
    if child:
        for number in FORWARDED:
            signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    if child:
        sys.exit(_bury_until(child))


def _bury_until(child: int) -> int:
    """Wait for orphans and the child; returns the child's exit code."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else BY_SIGNAL - code
