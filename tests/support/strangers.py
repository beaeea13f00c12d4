"""A user whom nobody knows, and file systems that nobody may write: what containers run with.

Both need root. Where they cannot be had, the tests that need them are skipped and say so.
"""

import os
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

STRANGER = 54_321  # the id of a user and of a group without an entry

# It may read every file, so that it finds the interpreter in whosever home that is, and write none.
_READS_ALL = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
AS_STRANGER = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", *_READS_ALL)
IN_OWN_MOUNTS = ("unshare", "--mount")
# Only what is named stays writable: Docker's and Kubernetes's read-only root file systems keep /dev/shm.
_READ_ONLY = """
set -e
mount --make-rprivate /
for kept in "$@"; do mount --bind "$kept" "$kept"; done
cd /
mount -o remount,ro,bind /
for each in /tmp /var/tmp /dev/shm; do
  case " $* " in *" $each "*) continue;; esac
  if mountpoint -q "$each"; then mount -o remount,ro,bind "$each"; fi
done
exec {command}
"""
SHARED_MEMORY = "/dev/shm"  # noqa: S108 where the kernel keeps semaphores
AS_FIRST_PROCESS = ("unshare", "--mount-proc", "--pid", "--fork", "--kill-child")


def on_read_only_files(command: Sequence[str | Path], *kept: str | Path) -> tuple[str, ...]:
    """A command that runs it, from the root directory, where only the kept directories can be written."""
    script = _READ_ONLY.format(command=shlex.join(map(str, command)))
    return (*IN_OWN_MOUNTS, "sh", "-c", script, "sh", *map(str, kept))


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
