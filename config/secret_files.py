"""A directory of secret files: one file for each variable, named like it.

Docker and Kubernetes mount secrets like this. Files with other names are not read.
"""

from pathlib import Path

from config.forms import PREFIX


class SecretFilesError(Exception):
    """The directory or a file in it cannot be read; the message names the variable and shows no content."""


def read(directory: Path) -> dict[str, str | None]:
    """The content of each file by its name in small letters; none where there is no directory.

    Raises:
        SecretFilesError: one of them cannot be read.
    """
    try:
        if not directory.exists():
            return {}
        names = sorted(path.name for path in directory.iterdir())
    except OSError as problem:
        raise SecretFilesError(f"{PREFIX}SECRETS_DIR takes a directory: {problem.strerror}") from None
    return {name.lower(): _read(directory / name) for name in names if name.upper().startswith(PREFIX)}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as problem:
        raise SecretFilesError(f"{file.name.upper()}: its secret file: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise SecretFilesError(f"{file.name.upper()}: its secret file is not UTF-8 text") from None
