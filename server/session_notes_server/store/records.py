"""Records: the store's typed results.

Times are microseconds of the store's clock since 1970. Notes and turns are serialized messages.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from session_notes.v1 import notes_pb2


class State(enum.IntEnum):
    """The state of a run, numbered as in the contract's RunState. Lua scripts use the same names."""

    RUNNING = notes_pb2.RUN_STATE_RUNNING
    WRITTEN = notes_pb2.RUN_STATE_WRITTEN
    SUPERSEDED = notes_pb2.RUN_STATE_SUPERSEDED
    FAILED = notes_pb2.RUN_STATE_FAILED
    ABANDONED = notes_pb2.RUN_STATE_ABANDONED


# Looking up an enum member by its value takes ten times as long.
_STATES = {state.value: state for state in State}


# GetNotes creates several of these per call. A named tuple takes a third of the time of a frozen dataclass.
class RunRecord(NamedTuple):
    """A run, as it was when it was read."""

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
        return cls(run_id.decode(), number, _STATES[state], observed_turn, begin_us, end_us, failure.decode())


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run of the history, with its notes if they were requested and are still stored."""

    run: RunRecord
    notes: bytes | None


class ObserverRecord(NamedTuple):
    """The notes and runs of one observer of a session, read at `now_us`.

    Attributes:
        current: The run whose notes are current, even if their ttl has passed.
        notes: The current notes. None if there are none, or their ttl has passed.
        latest: The run with the highest number.
        runs_lost: Whether the store has lost the observer's runs by eviction. `current` and `latest` are then None.
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
        # An observer with a state has begun a run, so it has a latest run unless the store lost it.
        lost = latest is None
        return cls(now_us, turn_count, now_us + expires_ms * 1000, current, notes, notes_expire_us, latest, lost)


@dataclass(frozen=True, slots=True)
class BegunRun:
    """The result of BeginRun.

    Attributes:
        started: Whether the run is the caller's, and not another one in flight.
        transcript: The turns that the run asked for.
        first_turn: Number of the first of these turns. None if there are none.
        current: The observer's notes and runs. None unless requested.
    """

    started: bool
    run: RunRecord
    transcript: list[bytes]
    first_turn: int | None
    current: ObserverRecord | None


@dataclass(frozen=True, slots=True)
class RenewedRun:
    """The result of RenewRun.

    Attributes:
        obsolete: Whether a write of the run would be superseded now.
        turns_behind: Number of turns appended since the run's snapshot.
    """

    run: RunRecord
    obsolete: bool
    turns_behind: int


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


class DueRecord(NamedTuple):
    """A session on which an observer has work to do.

    Attributes:
        turns_behind: Number of turns that the observer's current notes have not seen.
        quiet_us: Time since the last turn was appended.
        latest: The observer's run with the highest number, if any.
    """

    session_id: str
    turn_count: int
    turns_behind: int
    quiet_us: int
    latest: RunRecord | None


class ScanPosition(NamedTuple):
    """The position from which a walk through all sessions continues."""

    nodes: str
    """A digest of the nodes' processes and slots. A cursor is valid only in the process that issued it."""

    node: int
    """Index of the node being walked."""

    cursor: int
    """SCAN cursor of this node."""


SCAN_START = ScanPosition("", 0, 0)
"""The beginning of a walk. No nodes have this digest, so the walk starts with the nodes of its first step."""
