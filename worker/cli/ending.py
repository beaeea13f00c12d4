"""How every command ends: its output written, and one exit code."""

import os
import sys
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

BAD_STATE = 1
INTERRUPTED = 130


def end_with(command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8, wherever it is written (RFC 8259)
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # `evergrant events | head`
        code = 0
        _write_no_more()
    except OSError as problem:  # a full disk must not pass for a backup
        code = BAD_STATE
        complain(f"{problem.filename or 'standard output'}: {problem.strerror}")
        _write_no_more()
    sys.exit(code)


def complain(message: str) -> None:
    """One line of standard error, under the command's name."""
    sys.stderr.write(f"evergrant: {message}\n")


def _write_no_more() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's own flush at exit says nothing."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
