"""A plain Python model of a session with one observer: what each call returns, in any order of calls.

The model has no clock. A lease or a ttl either lasts an hour, or has ended before the next call.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from session_notes.v1 import notes_pb2
from session_notes.v1.session_notes_pb2 import Readiness
from session_notes_server.store.limits import TRANSCRIPT_TURNS

RUNNING, WRITTEN, SUPERSEDED = notes_pb2.RUN_STATE_RUNNING, notes_pb2.RUN_STATE_WRITTEN, notes_pb2.RUN_STATE_SUPERSEDED
FAILED, ABANDONED = notes_pb2.RUN_STATE_FAILED, notes_pb2.RUN_STATE_ABANDONED


class Refused(Exception):
    """A call that the sidecar refuses, with its ErrorReason; nothing changes."""


@dataclass
class ModelRun:
    """A run: in flight while RUNNING and leased. `window` has the bounds of its turns, the first excluded."""

    run_id: str
    number: int
    observed_turn: int | None = None
    stored_state: int = RUNNING
    leased: bool = False
    window: tuple[int, int | None] = (0, None)
    turns: int = 0
    notes: str | None = None
    expired: bool = False

    @property
    def in_flight(self) -> bool:
        """Whether it is in flight."""
        return self.stored_state == RUNNING and self.leased

    @property
    def state(self) -> int:
        """Its state, as read."""
        return ABANDONED if self.stored_state == RUNNING and not self.leased else self.stored_state


@dataclass
class Model:
    """The expected state of a session."""

    turns: list[tuple[int, str]] = field(default_factory=list)
    count: int = 0
    appends: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    runs: dict[str, ModelRun] = field(default_factory=dict)
    current: ModelRun | None = None
    exists: bool = False
    deleted_appends: set[str] = field(default_factory=set)
    deleted_runs: set[str] = field(default_factory=set)

    def append(self, append_id: str, texts: list[str], expected: int | None) -> tuple[int, bool]:
        """Return the turn count and whether the append is a duplicate."""
        if append_id in self.deleted_appends:
            raise Refused("SESSION_DELETED")
        if append_id in self.appends:
            appended, count = self.appends[append_id]
            if appended != texts:
                raise Refused("TURNS_ALREADY_APPENDED")
            return count, True
        if expected is not None and expected != self.count:
            raise Refused("TURN_COUNT_MISMATCH")
        self.turns = [*self.turns, *enumerate(texts, start=self.count + 1)][-TRANSCRIPT_TURNS:]
        self.count += len(texts)
        self.exists = True
        if append_id:
            self.appends[append_id] = (texts, self.count)
        return self.count, False

    def begin(
        self, run_id: str, *, leased: bool, only_if_idle: bool, observed_turn: int | None, after: int | None, most: int
    ) -> tuple[set[str], list[tuple[int, str]]]:
        """Return the ids of the runs that may be returned, and the numbered turns.

        Args:
            after: None: the turns that the current notes have not seen.
            most: 0: no maximum.
        """
        if run_id in self.deleted_runs:
            raise Refused("SESSION_DELETED")
        run = self.runs.get(run_id)
        if run is None:
            if only_if_idle and (in_flight := self.in_flight):
                return in_flight, []
            lowest = self.seen if after is None else after
            window = max(lowest, self.count - most) if most else lowest, self.count
            run = self._new_run(run_id, leased=leased, window=window, turns=self.count)
            run.observed_turn = self.count or None if observed_turn is None else observed_turn
        first, last = run.window
        return {run_id}, [turn for turn in self.turns if first < turn[0] <= (self.count if last is None else last)]

    def write(self, run_id: str, notes: str, *, observed_turn: int | None, expired: bool) -> str:
        """Return the outcome."""
        if run_id in self.deleted_runs:
            raise Refused("SESSION_DELETED")
        run = self.runs.get(run_id)
        if run and run.notes is not None:
            if run.notes != notes:
                raise Refused("RUN_ALREADY_WRITTEN")
            return "DUPLICATE"
        if run and run.stored_state == FAILED:
            raise Refused("RUN_ALREADY_FAILED")
        run = run or self._new_run(run_id)
        run.observed_turn = run.observed_turn if observed_turn is None else observed_turn
        run.notes, run.expired = notes, expired
        if self._supersedes(run):
            run.stored_state = SUPERSEDED
            return "SUPERSEDED"
        run.stored_state, self.current = WRITTEN, run
        return "ACCEPTED"

    def fail(self, run_id: str) -> None:
        """End a run without notes."""
        run = self._known(run_id)
        run.stored_state = FAILED

    def renew(self, run_id: str, *, leased: bool) -> tuple[int, bool, int]:
        """Return the run's state, whether it is obsolete, and the number of turns since its snapshot."""
        run = self._known(run_id)
        if run.stored_state == FAILED:
            raise Refused("RUN_ALREADY_FAILED")
        obsolete = self._supersedes(run)
        renewed = run.leased or not obsolete
        run.leased = renewed and leased
        return RUNNING if renewed else ABANDONED, obsolete, self.count - run.turns

    def delete(self) -> bool:
        """Return whether the session existed."""
        existed = self.exists
        deleted_appends, deleted_runs = self.deleted_appends | set(self.appends), self.deleted_runs | set(self.runs)
        self.__init__(deleted_appends=deleted_appends, deleted_runs=deleted_runs)  # type: ignore[misc]
        return existed

    @property
    def in_flight(self) -> set[str]:
        """The ids of the runs in flight."""
        return {run.run_id for run in self.runs.values() if run.in_flight}

    @property
    def latest(self) -> ModelRun | None:
        """The run with the highest number."""
        return max(self.runs.values(), key=lambda run: run.number, default=None)

    @property
    def ready(self) -> ModelRun | None:
        """The run whose notes are ready."""
        return self.current if self.current and not self.current.expired else None

    @property
    def seen(self) -> int:
        """The number of turns that the notes have seen; 0 if unknown."""
        return self.ready.observed_turn or 0 if self.ready else 0

    @property
    def readiness(self) -> int:
        """The readiness of the notes."""
        state = self.latest.state if self.latest else None
        if self.ready:
            return Readiness.READINESS_READY
        if state == RUNNING:
            return Readiness.READINESS_RUNNING
        if state in (FAILED, ABANDONED):
            return Readiness.READINESS_FAILED
        return Readiness.READINESS_EXPIRED if self.current else Readiness.READINESS_NEVER_RUN

    @property
    def turns_behind(self) -> int | None:
        """The drift of ready notes; None if it is unknown."""
        known = self.ready and self.ready.observed_turn is not None and self.count
        return max(0, self.count - self.seen) if known else None

    def due(self, least: int, *, long_ago: bool) -> int | None:
        """Return the number of unseen turns of a due session. `long_ago`: its runs must have begun an hour ago."""
        behind = max(0, self.count - self.seen)
        waits = not self.count or self.in_flight or behind < least or (long_ago and self.runs)
        return None if waits else behind

    def _new_run(
        self, run_id: str, *, leased: bool = False, window: tuple[int, int | None] = (0, None), turns: int = 0
    ) -> ModelRun:
        self.runs[run_id] = ModelRun(run_id, len(self.runs) + 1, leased=leased, window=window, turns=turns)
        self.exists = True
        return self.runs[run_id]

    def _known(self, run_id: str) -> ModelRun:
        """Return a run that FailRun and RenewRun may change."""
        if run_id in self.deleted_runs:
            raise Refused("SESSION_DELETED")
        if run_id not in self.runs:
            raise Refused("RUN_NOT_FOUND")
        run = self.runs[run_id]
        if run.notes is not None:
            raise Refused("RUN_ALREADY_WRITTEN")
        return run

    def _supersedes(self, run: ModelRun) -> bool:
        """Return whether the current notes supersede a run's."""
        if self.current is None or run.number > self.current.number:
            seen = (run.observed_turn, self.current.observed_turn if self.current else None)
            return seen[0] is not None and seen[1] is not None and seen[0] < seen[1]
        return True
