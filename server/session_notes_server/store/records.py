"""Records: the store's typed results.

Times are microseconds of the store's clock since 1970. Notes and turns are serialized messages.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from session_notes.v1 import notes_pb2


class State(enum.IntEnum):
    """The state of a run, with the numbers of the contract's RunState. Lua scripts know the states by these names."""

    RUNNING = notes_pb2.RUN_STATE_RUNNING
    WRITTEN = notes_pb2.RUN_STATE_WRITTEN
    SUPERSEDED = notes_pb2.RUN_STATE_SUPERSEDED
    FAILED = notes_pb2.RUN_STATE_FAILED
    ABANDONED = notes_pb2.RUN_STATE_ABANDONED


# GetNotes makes one of these per call. A named tuple takes a third of the time of a frozen dataclass.
class RunRecord(NamedTuple):
    """A run, as it was at the moment of reading."""

    run_id: str
    number: int
    state: State
    observed_turn: int | None
    begin_us: int | None
    end_us: int | None
    failure: str = ""

    @classmethod
    def of(cls, reply: list[Any], failure: bytes = b"") -> Self:
        """Convert a `run_reply` of `lua/common.lua`."""
        run_id, number, state, observed_turn, begin_us, end_us = reply
        return cls(run_id.decode(), number, State(state), observed_turn, begin_us, end_us, failure.decode())


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run of the history, with its notes if they were asked for and are still kept."""

    run: RunRecord
    notes: bytes | None


class ObserverRecord(NamedTuple):
    """The notes and runs of one observer of a session, read at `now_us`.

    Attributes:
        current: The run whose notes are current, also when their ttl has passed.
        notes: The current notes. None if there are none, or their ttl has passed.
        latest: The run that began last.
        runs_lost: The observer has had runs, and the store has lost them by eviction. Then `current` and `latest` are
            None.
    """

    now_us: int
    turn_count: int | None = None
    session_expires_us: int | None = None
    current: RunRecord | None = None
    notes: bytes | None = None
    notes_expire_us: int | None = None
    latest: RunRecord | None = None
    runs_lost: bool = False

    @classmethod
    def of(cls, reply: list[Any] | None, *, now_us: int, turn_count: int | None, expires_ms: int) -> Self:
        """Convert an `observer_reply` of `lua/common.lua`.

        Args:
            reply: The reply. None: the observer has had no run.
            now_us: When it was read.
            turn_count: Length of the transcript. None: there is no transcript.
            expires_ms: The session's remaining time to live.
        """
        if reply is None:
            return cls(now_us, turn_count)
        current_reply, notes, notes_expire_us, latest_reply, failure = reply
        current = RunRecord.of(current_reply) if current_reply is not None else None
        latest = current
        if latest_reply != current_reply:
            latest = RunRecord.of(latest_reply, failure) if latest_reply is not None else None
        # An observer with a state has begun a run, and so has a latest one, unless the store lost it.
        lost = latest is None
        return cls(now_us, turn_count, now_us + expires_ms * 1000, current, notes, notes_expire_us, latest, lost)

    def without_notes(self) -> Self:
        """Return a copy with empty notes, if this record has notes."""
        return self if self.notes is None else self._replace(notes=b"")


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A whole session, read at `now_us`. Without `created_us`, the session does not exist."""

    now_us: int
    version: int
    turn_count: int
    created_us: int | None
    updated_us: int | None
    expires_us: int
    fields: dict[str, bytes] = field(default_factory=dict)
    observers: dict[str, ObserverRecord] = field(default_factory=dict)
    turns: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SummaryRecord:
    """A session's entry in a listing."""

    session_id: str
    version: int
    turn_count: int
    updated_us: int
    expires_in_ms: int
    observers: list[str]


class ScanPosition(NamedTuple):
    """The point at which a walk through all sessions continues."""

    nodes: str
    """A digest of the walked processes and their slots. Cursors of other processes mean nothing."""

    node: int
    """Index of the node that is being walked."""

    cursor: int
    """Its SCAN cursor."""
