"""The one place that builds a key."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys under a prefix.

    The session id is the hash tag of all keys of a session, so that in a cluster they share one slot. Neither it nor
    the prefix can hold a brace.
    """

    prefix: str

    def of(self, session_id: str) -> tuple[str, ...]:
        """Return the keys every script takes: session, turns, runs, deleted, ids (see `lua/common.lua`)."""
        session = f"{self.prefix}:{{{session_id}}}"
        return session, f"{session}:turns", f"{session}:runs", f"{session}:deleted", f"{session}:ids"

    def marker(self, session_id: str) -> str:
        """A key for the moment, of no meaning, that lives where the session does."""
        return f"{self.prefix}:{{{session_id}}}:marker"

    def probe(self, tag: str) -> str:
        """A key that is never there, with this hash tag, to try a write on that writes nothing."""
        return f"{self.prefix}:{{{tag}}}:probe"

    @property
    def pattern(self) -> str:
        """A SCAN pattern that meets each session once: its hash, and none of its other keys."""
        return f"{self._escaped_prefix}:{{*}}"

    @property
    def any_pattern(self) -> str:
        """A SCAN pattern that meets every key."""
        return f"{self._escaped_prefix}:{{*}}*"

    @property
    def _escaped_prefix(self) -> str:
        return re.sub(r"([*?\[\]\\^-])", r"\\\1", self.prefix)

    def session_id(self, key: bytes) -> str:
        """The session a key found by `pattern` belongs to; no id, where the key is somebody else's and says none."""
        return key[len(self.prefix.encode()) + 2 : -1].decode(errors="replace")
