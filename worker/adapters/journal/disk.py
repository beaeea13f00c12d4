"""What the journal asks of the file system, and how its refusal is told.

Rules:
- What was synced survives the machine. macOS keeps that promise only when asked in its own way.
- A refusal is one line: the path and the reason.
"""

import errno
import os
import sys
from pathlib import Path
from typing import Final

from worker.core.ports import JournalError

if sys.platform == "darwin":
    import fcntl

BLOCK_BYTES: Final = 4096
NO_SUPPORT: Final = {errno.EINVAL, errno.EOPNOTSUPP}  # musl and some file systems say so of posix_fallocate


def refused(path: Path, error: OSError) -> JournalError:
    """What the disk said."""
    return JournalError(f"journal: {path}: {error.strerror or type(error).__name__}")


def make_private_directory(path: Path) -> None:
    """Make a directory and those above it, each so that it survives the machine."""
    try:
        path.mkdir(mode=0o700)
    except FileNotFoundError:
        make_private_directory(path.parent)
        make_private_directory(path)
    except FileExistsError:
        return
    else:
        sync_directory(path.parent)


def sync(descriptor: int) -> None:
    """Return when what was written is on the disk, and the file's length with it."""
    if sys.platform == "darwin":
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(descriptor)


def sync_directory(path: Path) -> None:
    """Return when the directory's names are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def preallocate(descriptor: int, size: int) -> None:
    """Make sure that a new file of zeros can be written to without asking for more room."""
    if sys.platform != "darwin":
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in NO_SUPPORT:
                raise
        else:
            return
    write(descriptor, bytes(size), 0)


def write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of `data`; the system may take it in parts."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def read(path: Path) -> bytes:
    """Read a file; a block that the disk cannot read comes as zeros, so that it costs no other."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(descriptor).st_size
        return b"".join(_read_block(descriptor, offset, size) for offset in range(0, size, BLOCK_BYTES))
    finally:
        os.close(descriptor)


def _read_block(descriptor: int, offset: int, size: int) -> bytes:
    length = min(BLOCK_BYTES, size - offset)
    try:
        # Short where a living owner has cut off unused room since the size was asked for.
        return os.pread(descriptor, length, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return bytes(length)
