"""A user whom nobody knows, and file systems that nobody may write: what containers run with.

Both need root. Where they cannot be had, the tests that need them are skipped and say so.
"""

import os
import subprocess
from collections.abc import Sequence
from functools import cache

import pytest

STRANGER = 54_321  # the id of a user and of a group without an entry

# It may read every file, so that it finds the interpreter in whosever home that is, and write none.
_READS_ALL = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
AS_STRANGER = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *_READS_ALL)
IN_OWN_MOUNTS = ("unshare", "--mount")
AS_FIRST_PROCESS = ("unshare", "--mount-proc", "--pid", "--fork", "--kill-child")


@cache
def _can(command: Sequence[str]) -> bool:
    if os.geteuid() != 0:
        return False
    try:
        return subprocess.run([*command, "true"], check=False, capture_output=True).returncode == 0  # noqa: S603 as written above
    except FileNotFoundError:
        return False


needs_stranger = pytest.mark.skipif(not _can(AS_STRANGER), reason="needs root and setpriv")
needs_own_mounts = pytest.mark.skipif(not _can(IN_OWN_MOUNTS), reason="needs root and unshare --mount")
needs_first_process = pytest.mark.skipif(not _can(AS_FIRST_PROCESS), reason="needs root and unshare --pid")
