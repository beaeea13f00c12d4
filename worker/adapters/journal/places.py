"""Where journals are: `<root>/<owner>/<number>.segment`."""

import re
from pathlib import Path

from worker.core.ports import JournalError

_is_segment = re.compile(r"\d{8}\.segment").fullmatch


def journals_in(root: Path) -> list[Path]:
    """The directories of journals, by owner; none where there never was one.

    Raises:
        JournalError: the root cannot be read.
    """
    try:
        return sorted(path for path in root.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise refused(root, error) from error


def segments_in(path: Path) -> list[Path]:
    """The files of answers in a journal's directory, oldest first; none where it is gone.

    Raises:
        OSError: the directory cannot be read.
    """
    try:
        return sorted(file for file in path.iterdir() if _is_segment(file.name))
    except FileNotFoundError:
        return []


def refused(path: Path, error: OSError) -> JournalError:
    """The error of a disk: one line with the path and the reason."""
    return JournalError(f"journal: {path}: {error.strerror or type(error).__name__}")
