"""The table of Redis keys at the head of prelude.lua: what it says, and that a store has nothing else."""

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

ENTRY = re.compile(
    r"-- (?P<kind>[a-z]+)(?P<of>:[A-Z]+)? +(?P<type>string|hash|set|zset|stream)  (?P<text>.*)"
)
FIELDS = re.compile(r"Fields[^:]*: (?P<names>[^.]*)\.")


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table.

    Attributes:
        is_one_of_many: a name follows the kind, after a colon.
        fields: of a hash; empty where the table does not name them.
    """

    type: str
    is_one_of_many: bool
    fields: frozenset[str]


@cache
def key_table() -> dict[str, Entry]:
    """The table's rows, by the kind of key."""
    prelude = (files("worker.adapters.store") / "lua" / "prelude.lua").read_text()
    texts: dict[str, list[str]] = {}
    heads: dict[str, re.Match[str]] = {}
    kind = ""
    for line in prelude[: prelude.index("\nlocal ")].splitlines():
        if head := ENTRY.fullmatch(line):
            kind = head["kind"]
            heads[kind], texts[kind] = head, [head["text"]]
        elif kind:
            texts[kind].append(line.removeprefix("--").strip())
    return {
        kind: Entry(head["type"], head["of"] is not None, _fields(" ".join(texts[kind])))
        for kind, head in heads.items()
    }


def _fields(text: str) -> frozenset[str]:
    without_remarks = re.sub(r" \([^)]*\)", "", text)
    lists = [match["names"] for match in FIELDS.finditer(without_remarks)]
    return frozenset(name for names in lists for name in re.split(r", | and ", names))


async def assert_in_key_table(redis: Any, prefix: str) -> None:
    """Check that every key and every field of a hash is in the table."""
    async for key in redis.scan_iter(match=prefix + "*", count=500):
        kind, colon, _ = key.decode().removeprefix(prefix).partition(":")
        entry = key_table().get(kind)
        assert entry is not None, f"{key} is not in prelude.lua's table of keys"
        assert bool(colon) == entry.is_one_of_many, f"{key} is not named as prelude.lua says"
        assert (await redis.type(key)).decode() == entry.type, f"{key} is no {entry.type}"
        if entry.fields:
            unknown = {name.decode() for name in await redis.hkeys(key)} - entry.fields
            assert not unknown, f"{key} has fields that prelude.lua's table lacks: {unknown}"
