"""Clients from one file: TOML, or JSON where its name ends in `.json`.

Rules:
- A file is taken whole or not at all. An error is one line that names the file, the line and the field. It
  shows no value.
- A file that was renamed into place is complete. One that is written in place is read once it has
  been the same for a second: a half-written list would look like removed clients.
- A relative path in the file begins at the file's own directory, so one mounted volume can hold both.

This module knows the file; `settings.py` knows what a client is.
"""

import json
import os
import re
import stat
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

VARIABLE: Final = "EVERGRANT_CLIENTS_FILE"
MOST_READS: Final = 3
SETTLED_SECONDS: Final = 1.0
TAKES: Final = "takes a table for each client, [clients.NAME]; `clients = {}` for none"
SECRETS: Final = ("client_secret", "previous_client_secret")


class ClientsFileError(Exception):
    """The file cannot be read or is wrong; the message is one line."""


class Version(NamedTuple):
    """What a look at the file sees of it without reading it."""

    device: int
    inode: int
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Text:
    """The file as it was read.

    Attributes:
        tables: each client's fields, by its name in small letters.
        is_public: whether it holds a secret and every user of the machine may read it.
    """

    path: Path
    version: Version
    tables: Mapping[str, Mapping[str, Any]]
    is_public: bool
    _content: str
    _written: Mapping[str, str]

    def error(self, problem: str, client: str | None = None, field: str | None = None) -> ClientsFileError:
        """What to raise for a problem of the file, of a client or of one of its fields."""
        written = None if client is None else self._written[client]
        return _error(self.path, problem, _line_of(self.path, self._content, written, field))


class Watch:
    """Says when a clients file is to be read again; each look is one `stat`.

    Args:
        path: of the file.
        taken: the version that is known.
        now: seconds of a clock that never jumps.
    """

    def __init__(self, path: Path, taken: Version, now: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._now = now
        self._taken = self._seen = taken
        self._seen_since = now()
        self._was_renamed = False

    def has_changed(self) -> bool:
        """Whether the file differs from what was taken, and is complete.

        Raises:
            ClientsFileError: it cannot be looked at.
        """
        seen, now = _version_of(self._path), self._now()
        if seen != self._seen:
            # Compared with the last look, not with what was taken: an inode number may come back.
            self._was_renamed = seen[:2] != self._seen[:2]
            self._seen, self._seen_since = seen, now
        if seen == self._taken:
            return False
        return self._was_renamed or now - self._seen_since >= SETTLED_SECONDS

    def take(self, version: Version) -> None:
        """Count this version as known."""
        self._taken = version


def read(path: Path) -> Text:
    """Read the file whole.

    Raises:
        ClientsFileError: it cannot be read, or is no table of clients.
    """
    content, status = _read_whole(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise _error(path, "is not UTF-8 text", content[: problem.start].count(b"\n") + 1) from None
    tables, written = _tables(path, text)
    holds_secrets = any(table.get(secret) is not None for table in tables.values() for secret in SECRETS)
    is_public = holds_secrets and bool(status.st_mode & stat.S_IROTH)
    return Text(path, _version(status), tables, is_public, text, written)


def _read_whole(path: Path) -> tuple[bytes, os.stat_result]:
    for _ in range(MOST_READS):
        try:
            if not path.is_file():  # opening a pipe would wait for its writer
                path.stat()
                raise _error(path, "is no regular file")
            with path.open("rb") as file:
                before = os.fstat(file.fileno())
                content = file.read()
                after = os.fstat(file.fileno())
        except OSError as problem:
            raise _error(path, f"cannot be read: {problem.strerror}") from None
        if _version(before) == _version(after):
            return content, after
    raise _error(path, "changes while it is read: write another file and rename it to this one")


def _version_of(path: Path) -> Version:
    try:
        return _version(path.stat())
    except OSError as problem:
        raise _error(path, f"cannot be read: {problem.strerror}") from None


def _version(status: os.stat_result) -> Version:
    return Version(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _error(path: Path, problem: str, line: int | None = None) -> ClientsFileError:
    where = "" if line is None else f", line {line}"
    return ClientsFileError(f"{VARIABLE}: {path}{where}: {problem}")


def _tables(path: Path, text: str) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, str]]:
    """Each client's fields, and how its name is written."""
    whole = _parse(path, text)
    if not isinstance(whole, dict) or not isinstance(whole.get("clients"), dict):
        raise _error(path, TAKES)
    for name in whole:
        if name != "clients":
            raise _error(path, f"{name!r} is not known here; it {TAKES}", _line_of(path, text, None, name))
    tables: dict[str, Mapping[str, Any]] = {}
    spelt: dict[str, str] = {}
    for written, table in whole["clients"].items():
        name = written.lower()
        line = _line_of(path, text, written, None) if name in tables or not isinstance(table, dict) else None
        if name in tables:
            raise _error(path, f"client {name} is named twice; capitals make no difference", line)
        if not isinstance(table, dict):
            raise _error(path, f"clients.{written} takes a table of fields", line)
        tables[name] = {field: _from_here(path, field, value) for field, value in table.items()}
        spelt[name] = written
    return tables, spelt


def _from_here(path: Path, field: str, value: Any) -> Any:
    if field.endswith("_file") and isinstance(value, str) and value and not value.startswith("~"):
        return str(path.parent / value)
    return value


class _TwiceError(Exception):
    """A JSON object has one name twice; the message is the name."""


def _parse(path: Path, text: str) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_without_twins)
        return tomllib.loads(text)
    except json.JSONDecodeError as problem:
        raise _error(path, f"is no JSON: {problem.msg}", problem.lineno) from None
    except tomllib.TOMLDecodeError as problem:
        message, line = _split_position(str(problem), text)
        raise _error(path, f"is no TOML: {message}", line) from None
    except _TwiceError as twice:
        raise _error(path, f"{twice} is named twice in one object") from None
    except (ValueError, RecursionError):  # a number of thousands of digits; thousands of brackets
        raise _error(path, "holds a number too long or tables too deep to be read") from None


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's members. JSON's own reader would keep the last of two with one name."""
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(repr(next(name for name in names if names.count(name) > 1)))
    return members


def _split_position(message: str, text: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", message, re.DOTALL)
    if found is None:
        return message, 1
    return found[1], int(found[2]) if found[2] else text.count("\n") + 1


def _line_of(path: Path, text: str, client: str | None, field: str | None) -> int | None:
    """Where a field stands, or else its client; `None` where neither is found."""
    wanted = [] if client is None else ["clients", client]
    places = _places_in_json(text, client, field) if path.suffix.lower() == ".json" else _places_in_toml(text)
    of_client: int | None = None
    for line, names in places:
        if field is not None and names[: len(wanted) + 1] == (*wanted, field):
            return line
        if of_client is None and wanted and names[:2] == tuple(wanted):
            of_client = line
    return of_client


def _places_in_toml(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Each table and each key with its line, as the path of names that leads to it."""
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            table = _names(line) or table
            yield number, table
        elif "=" in line:
            yield number, table + _names(line.partition("=")[0] + "=0")


def _names(line: str) -> tuple[str, ...]:
    try:
        node: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:  # a line within a string or an array
        return ()
    names: list[str] = []
    while isinstance(node, dict) and node:
        name, node = next(iter(node.items()))
        names.append(name)
    return tuple(names)


def _places_in_json(
    text: str, client: str | None, field: str | None
) -> Iterator[tuple[int, tuple[str, ...]]]:
    begin = 0
    path: tuple[str, ...] = ()
    for name in ("clients", client, field) if client is not None else (field,):
        found = name and re.compile(rf"{re.escape(json.dumps(name))}\s*:").search(text, begin)
        if not name or not found:
            return
        path = (*path, name)
        begin = found.end()
        yield text.count("\n", 0, found.start()) + 1, path
