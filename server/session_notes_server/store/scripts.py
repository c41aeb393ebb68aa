"""The Lua scripts: one per operation, each with its contract (ARGV, answer) at its top and KEYS in `lua/common.lua`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Self

from session_notes_server.store.redis.connection import pack

OUTCOMES = frozenset({"OK", "ACCEPTED", "DUPLICATE", "SUPERSEDED"})
"""How a script that can refuse says that it has done its work."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script's name and text, and the digest EVALSHA knows it by."""

    name: str
    text: str
    sha: str

    def by_digest(self, keys: Sequence[str], tag: int, arguments: Sequence[Any]) -> bytes:
        """The command that runs it where the node knows it, and is refused with NOSCRIPT where not."""
        return pack("EVALSHA", self.sha, len(keys), *keys, tag, *arguments)

    def in_full(self, keys: Sequence[str], tag: int, arguments: Sequence[Any]) -> bytes:
        """The command that runs it anywhere, and lets the node know it."""
        return pack("EVAL", self.text, len(keys), *keys, tag, *arguments)

    @classmethod
    def load(cls, name: str) -> Self:
        """Read `lua/<name>.lua`, with what all scripts share before it."""
        folder = files(__package__) / "lua"
        text = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))
        return cls.of(name, text)

    @classmethod
    def of(cls, name: str, text: str) -> Self:
        """A script of this text alone."""
        return cls(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


GET_NOTES = Script.load("get_notes")
BEGIN_RUN = Script.load("begin_run")
WRITE_NOTES = Script.load("write_notes")
FAIL_RUN = Script.load("fail_run")
LIST_RUNS = Script.load("list_runs")
GET_SESSION = Script.load("get_session")
UPDATE_SESSION = Script.load("update_session")
APPEND_TURNS = Script.load("append_turns")
DELETE_SESSION = Script.load("delete_session")
SESSION_SUMMARY = Script.load("session_summary")

# KEYS[1] never exists, so nothing is written, replicated or logged; ARGV[1] is the tag. RPUSHX is refused wherever
# a write is: on a replica, out of memory, with a full disk, by an ACL.
PROBE = Script.of("probe", "redis.call('RPUSHX', KEYS[1], '') return {ARGV[1]}")


def refusals() -> frozenset[str]:
    """Return the words by which the scripts refuse: `return { TAG, 'WORD'`, where it is no outcome."""
    folder = files(__package__) / "lua"
    texts = [entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".lua")]
    words = {word for text in texts for word in re.findall(r"return \{ TAG, '([A-Z_]+)'", text)}
    return frozenset(words - OUTCOMES)
