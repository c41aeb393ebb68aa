"""The Lua scripts: one per operation, each with its contract (ARGV, answer) at its top and KEYS in `lua/common.lua`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Self


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text, and the digest EVALSHA knows it by."""

    text: str
    sha: str

    @classmethod
    def load(cls, name: str) -> Self:
        """Read `lua/<name>.lua`, with what all scripts share before it."""
        folder = files(__package__) / "lua"
        text = "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


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
