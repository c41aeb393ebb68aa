"""What the store answers.

Times are microseconds of the store's clock since 1970; notes and turns are serialized messages.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self


class State(enum.IntEnum):
    """What became of a run; the numbers are those of the contract's RunState and of `lua/common.lua`."""

    RUNNING = 1
    WRITTEN = 2
    SUPERSEDED = 3
    FAILED = 4
    ABANDONED = 5


# Those of GetNotes are tuples: a frozen dataclass takes three times as long to make.
class RunRecord(NamedTuple):
    """A run, as the store saw it at the moment of reading."""

    run_id: str
    number: int
    state: State
    observed_turn: int | None
    begin_us: int | None
    end_us: int | None
    failure: str = ""

    @classmethod
    def of(cls, reply: list[Any], failure: bytes = b"") -> Self:
        """Read `run_reply` of `lua/common.lua`."""
        run_id, number, state, observed_turn, begin_us, end_us = reply
        return cls(run_id.decode(), number, State(state), observed_turn, begin_us, end_us, failure.decode())


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run of the history, with its notes where they were asked for and are still kept."""

    run: RunRecord
    notes: bytes | None


class ObserverRecord(NamedTuple):
    """What the store knows of one observer on one session, read at `now_us`.

    `current` is the run whose notes count, also when their ttl has passed: then `notes` is None. Where the store has
    lost the runs of an observer that had some (by eviction), `runs_lost` is set; `current` and `latest` are None.
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
        """Read `observer_reply` of `lua/common.lua`; `expires_ms` is what PTTL said of the session."""
        if reply is None:
            return cls(now_us, turn_count)
        current_reply, notes, notes_expire_us, latest_reply, failure = reply
        current = RunRecord.of(current_reply) if current_reply is not None else None
        latest = current
        if latest_reply != current_reply:
            latest = RunRecord.of(latest_reply, failure) if latest_reply is not None else None
        # Once an observer has begun a run, it has a latest one.
        lost = latest is None
        return cls(now_us, turn_count, now_us + expires_ms * 1000, current, notes, notes_expire_us, latest, lost)

    def without_notes(self) -> Self:
        """Return the same, with empty notes where it has any."""
        return self if self.notes is None else self._replace(notes=b"")


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A whole session, read at `now_us`. Without `created_us` there is no such session."""

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
    """A session in a few words."""

    session_id: str
    version: int
    turn_count: int
    updated_us: int
    expires_in_ms: int
    observers: list[str]


class ScanPosition(NamedTuple):
    """Where to go on in a walk through all sessions."""

    nodes: str
    """Which processes were asked, and which slots they have: the cursors of others mean nothing."""

    node: int
    """Which of them is being walked."""

    cursor: int
    """Its SCAN cursor."""
