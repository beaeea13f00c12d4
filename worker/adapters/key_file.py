"""A sealing key in a file of the data directory, for a single machine whose settings name no key."""

import base64
import os
import secrets
from pathlib import Path

from worker.adapters import private_file

FILE_NAME = "keys"
STORED_GRANTS = "appendonlydir"  # the embedded server's data, which a new key could not unseal


class KeyFileError(Exception):
    """The key file cannot be used; the message is one line that says why."""


def new_key_line() -> str:
    """A new random key as `EVERGRANT_KEYS` takes it: `id:base64-of-32-bytes`."""
    return f"k{secrets.token_hex(3)}:{base64.b64encode(os.urandom(32)).decode()}"


def read_or_make(data_dir: Path) -> tuple[str, bool]:
    """The key line of a data directory, and whether this call made it.

    Of two processes that start at once, one makes the key and both use it.

    Raises:
        KeyFileError: the file cannot be read or written, others may read it, or it is missing although grants
            are stored.
    """
    path = data_dir / FILE_NAME
    try:
        if not path.exists() and (data_dir / STORED_GRANTS).exists():
            raise KeyFileError(f"{path} is missing, and grants are stored beside it: put it back")
        made = not path.exists() and private_file.make(path, new_key_line() + "\n")
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise KeyFileError(f"{path} can be read by others (mode {mode:o}); it takes mode 600")
        return path.read_text().strip(), made
    except OSError as error:
        raise KeyFileError(f"{error.filename}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise KeyFileError(f"{path} is not text") from None
