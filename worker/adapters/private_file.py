"""A file that its owner alone can read, made whole or not at all."""

import os
from pathlib import Path


def make(path: Path, text: str) -> bool:
    """Write a new file of mode 600; returns false where there is one already, which is left as it is.

    It is written beside its place and linked into it: of two processes that start at once, one makes it.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    return True
