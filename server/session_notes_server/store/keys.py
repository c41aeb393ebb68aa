"""Key names. No other module builds a key."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of keys under a prefix.

    The session id is the hash tag of all keys of a session, so that in a cluster they share one slot. Neither the id
    nor the prefix can contain a brace.
    """

    prefix: str

    def of(self, session_id: str) -> tuple[str, ...]:
        """Return the KEYS of every script: session, turns, runs, deleted, ids (see `lua/common.lua`)."""
        session = f"{self.prefix}:{{{session_id}}}"
        return session, f"{session}:turns", f"{session}:runs", f"{session}:deleted", f"{session}:ids"

    def marker(self, session_id: str) -> str:
        """Return a key at the session's node for short-lived, meaningless values."""
        return f"{self.prefix}:{{{session_id}}}:marker"

    def probe(self, hash_tag: str) -> str:
        """Return a key with this hash tag that never exists, for a write that changes nothing."""
        return f"{self.prefix}:{{{hash_tag}}}:probe"

    @property
    def pattern(self) -> str:
        """The SCAN pattern that matches each session once: its hash, and none of its other keys."""
        return f"{self._escaped_prefix}:{{*}}"

    @property
    def any_pattern(self) -> str:
        """The SCAN pattern that matches every key."""
        return f"{self._escaped_prefix}:{{*}}*"

    @property
    def _escaped_prefix(self) -> str:
        return re.sub(r"([*?\[\]\\^-])", r"\\\1", self.prefix)

    def session_id(self, key: bytes) -> str:
        """Return the session id in a key that `pattern` matches. For another program's key, the id may be invalid."""
        return key[len(self.prefix.encode()) + 2 : -1].decode(errors="replace")
