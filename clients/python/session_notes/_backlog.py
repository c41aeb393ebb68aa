"""Backlog of a recorder: the pending turns of all sessions, within bounds.

`_visits` decides which session is next, and `_delivery` sends its turns. Nothing is sent here.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Protocol

from session_notes._calls import new_id
from session_notes._limits import MAX_TURN_BYTES
from session_notes._logs import counted, session_digest, warn
from session_notes._pending import TurnCounts
from session_notes._prompt import without_prompts
from session_notes._storable import Storable, prepare
from session_notes._types import Turn
from session_notes._visits import Entry, PendingSession, Visits

MAX_PENDING_TURNS = 10_000
MAX_PENDING_BYTES = 16 * 1024 * 1024
"""Bounds on pending turns of all sessions together. Turns beyond either bound are dropped, the newest first."""

MAX_IDLE_SESSIONS = 10_000
"""Sessions without pending turns whose turn count is remembered. For any other session, the sidecar is asked again."""

# Far below the sidecar's limits of 5,000 turns and 4 MiB, because the timeout of a call does not grow with its size.
_MAX_CALL_TURNS = 250
_MAX_CALL_BYTES = 512 * 1024

# Compiled at its first use, like all patterns of this package, because few processes need it.
_SESSION_ID = r"[!-z|~]{1,256}"


def is_session_id(text: str) -> bool:
    """Return whether a text can be a session id."""
    return re.fullmatch(_SESSION_ID, text) is not None


class Observer(Protocol):
    """A background observer, blocking or not."""

    def submit(self, session_id: str) -> None:
        """Queue a session for an analysis, and return immediately."""


class Backlog:
    """Pending turns, in order within a session. Safe to use from several threads.

    Args:
        observer: Receives a session once its turns are stored. None: no runs are submitted.

    Attributes:
        changed: Notified when turns are added, a visit ends, or the backlog closes. Its lock protects all state.
        visits: The order of visits.
        closing: Whether no more turns are accepted.
        turn_limit: Largest turn that the sidecar is known to accept, in bytes.
    """

    def __init__(self, observer: Observer | None) -> None:
        self.changed = threading.Condition()
        self.visits = Visits()
        self.closing = False
        self.turn_limit = MAX_TURN_BYTES
        self._observer = observer
        self._busy: dict[str, PendingSession] = {}
        self._idle: OrderedDict[str, PendingSession] = OrderedDict()
        self._turns = 0
        self._bytes = 0
        self._dropped = 0

    @property
    def empty(self) -> bool:
        """Whether nothing is pending or in flight."""
        return not self._busy

    def add(self, session_id: object, turns: Sequence[object], observe: bool) -> bool:
        """Add turns, and return whether the backlog has work."""
        if not isinstance(session_id, str) or not is_session_id(session_id):
            kind = "" if isinstance(session_id, str) else f", but {type(session_id).__name__}"
            warn("%s not recorded: the session id is not 1 to 256 printable ASCII characters%s", counted(turns), kind)
            return False
        prepared, changes = self._prepare(turns)
        # If nothing of the turns is left, there is nothing new to observe.
        observe = observe and bool(prepared or not turns)
        with self.changed:
            dropped_before = self._dropped
            if self.closing:
                changes[f"{counted(prepared)} not recorded: the recorder is closed"] += 1
            else:
                self._dropped += len(prepared) - self._enqueue(session_id, prepared, observe)
            dropped, pending = self._dropped, self._turns
            self.changed.notify_all()
            empty = self.empty
        if changes:
            text = ", ".join(f"{change} ({times} times)" if times > 1 else change for change, times in changes.items())
            warn("session %s: %s", session_digest(session_id), text)
        if dropped and not dropped_before:
            warn(
                "%s pending, the most that a recorder keeps: turns are dropped (%d so far) until the sidecar stores "
                "turns again",
                counted(pending),
                dropped,
            )
        return not empty

    def _prepare(self, turns: Iterable[object]) -> tuple[list[Storable], Counter[str]]:
        prepared, changes = [], Counter[str]()
        for turn in turns:
            if not isinstance(turn, Turn):
                changes[f"left out, not a Turn: {type(turn).__name__}"] += 1
                continue
            try:
                spoken = without_prompts(turn.text) if isinstance(turn.text, str) else turn.text
                if spoken is not turn.text:
                    if not spoken:
                        continue
                    turn = dataclasses.replace(turn, text=spoken)
                storable = prepare(turn, self.turn_limit)
            except Exception as error:
                # The message of a TypeError is from this package. Any other error is logged by its class only.
                changes[f"a turn left out: {error if type(error) is TypeError else type(error).__name__}"] += 1
                continue
            prepared.append(storable)
            changes.update(storable.changes)
        return prepared, changes

    def _enqueue(self, session_id: str, turns: list[Storable], observe: bool) -> int:
        """Append turns up to the bounds, and return their number."""
        session = self._busy.get(session_id) or self._idle.get(session_id) or PendingSession(session_id)
        accepted = 0
        for storable in turns:
            if self._turns == MAX_PENDING_TURNS or self._bytes + storable.size > MAX_PENDING_BYTES:
                break
            session.pending.append(Entry(storable.turn, storable.size))
            self._turns += 1
            self._bytes += storable.size
            accepted += 1
        if observe and self._observer is not None and (accepted or not turns):
            # A run is due once the pending turns are stored.
            if session.pending:
                session.pending[-1].observe = True
            else:
                session.run_due = True
        if not session.idle and session_id not in self._busy:
            self._idle.pop(session_id, None)
            self._busy[session_id] = session
            self.visits.add(session)
        return accepted

    def turn_counts(self, session_id: object) -> TurnCounts | None:
        """Return the turn counts of a session. None: the session is unknown."""
        if not isinstance(session_id, str):
            return None
        with self.changed:
            session = self._busy.get(session_id) or self._idle.get(session_id)
            if session is None or (session.stored is None and not session.pending):
                return None
            return TurnCounts(session.stored, len(session.pending), session.visited or session.uncertain > 0)

    def forget(self, session_id: str) -> Future[None] | None:
        """Drop a session, and return a future of the call in flight for it."""
        with self.changed:
            session = self._busy.pop(session_id, None) or self._idle.pop(session_id, None)
            if session is None:
                return None
            session.forgotten = True
            self._clear(session)
            self.visits.remove(session)
            if session.visited and session.visit_ended is None:
                session.visit_ended = Future()
            self.changed.notify_all()
            return session.visit_ended

    def _clear(self, session: PendingSession) -> None:
        self._turns -= len(session.pending)
        self._bytes -= sum(entry.size for entry in session.pending)
        session.pending.clear()
        session.run_due = False
        session.stored, session.uncertain, session.one_by_one = None, 0, 0

    def close(self, *, submit: bool = True) -> None:
        """Accept no more turns, and make all sessions ready at once.

        Args:
            submit: Whether runs are still submitted.
        """
        with self.changed:
            self.closing = True
            if not submit:
                self._observer = None
            self.visits.end_pauses()
            self.changed.notify_all()

    def end(self) -> None:
        """Drop all pending turns, and log their number."""
        with self.changed:
            self.closing = True
            self._observer = None
            turns, sessions, dropped = self._turns, sum(bool(s.pending) for s in self._busy.values()), self._dropped
            self._dropped = 0
            for session in self._busy.values():
                session.forgotten = True
                self._clear(session)
            self._busy.clear()
            self.visits.clear()
            self.changed.notify_all()
        if turns or dropped:
            warn(
                "%s of %s not recorded: the recorder ended before they could be stored%s%s",
                counted(turns),
                counted(sessions, "session"),
                f" ({self.visits.last_error})" if self.visits.last_error else "",
                f"; {dropped} more were dropped before" if dropped else "",
            )

    def batch(self, session: PendingSession) -> list[Entry]:
        """Return the turns for the next call, and mark them as uncertain until their outcome is known."""
        with self.changed:
            if not session.uncertain:
                session.append_id = new_id()
                session.uncertain = self._next_batch_size(session)
            # After an unknown outcome, the same turns are sent again with the same id. The response to any others would
            # not reveal whether these are stored.
            return list(islice(session.pending, session.uncertain))

    @staticmethod
    def _next_batch_size(session: PendingSession) -> int:
        turns = size = 0
        for entry in islice(session.pending, 1 if session.one_by_one else _MAX_CALL_TURNS):
            size += entry.size
            if turns and size > _MAX_CALL_BYTES:
                break
            turns += 1
        return turns

    def confirm(self, session: PendingSession, appended: int, stored: int) -> None:
        """Remove the leading pending turns that were appended, and set the number of stored turns."""
        with self.changed:
            session.uncertain = 0
            session.stored = stored
            session.one_by_one = max(0, session.one_by_one - appended)
            for _ in range(min(appended, len(session.pending))):
                entry = session.pending.popleft()
                session.run_due |= entry.observe
                self._turns -= 1
                self._bytes -= entry.size
            dropped = self._dropped
            # Only once the backlog is half empty. Otherwise, each turn would log a line while turns arrive too fast.
            recovered = dropped and self._turns <= MAX_PENDING_TURNS // 2 and self._bytes <= MAX_PENDING_BYTES // 2
            if recovered:
                self._dropped = 0
        if recovered:
            warn("turns are stored again; %d were dropped", dropped)

    def drop(self, session: PendingSession) -> int:
        """Drop the pending turns and the run of a session that was deleted elsewhere, and return their number."""
        with self.changed:
            dropped = len(session.pending)
            self._clear(session)
            return dropped

    def replace(self, session: PendingSession, index: int, storable: Storable) -> None:
        """Replace a pending turn with a smaller version. Must be called with `changed` held."""
        entry = session.pending[index]
        session.pending[index] = Entry(storable.turn, storable.size, entry.observe)
        self._bytes += storable.size - entry.size

    def remove(self, session: PendingSession, index: int) -> None:
        """Remove a pending turn. Its run becomes due after the previous turn. Must be called with `changed` held."""
        entry = session.pending[index]
        del session.pending[index]
        session.one_by_one = max(0, session.one_by_one - 1)
        self._turns -= 1
        self._bytes -= entry.size
        if entry.observe and index:
            session.pending[index - 1].observe = True
        elif entry.observe:
            session.run_due = True

    def due_observer(self, session: PendingSession) -> Observer | None:
        """Return the observer if a run is due, and mark the run as submitted."""
        with self.changed:
            due, session.run_due = session.run_due, False
            return self._observer if due else None

    def leave(self, session: PendingSession, failure: Exception | None) -> None:
        """End a visit, and schedule the next one if the session has work left."""
        with self.changed:
            session.visited = False
            ended, session.visit_ended = session.visit_ended, None
            worth_logging = self.visits.record_outcome(session, failure) and not session.forgotten
            pending = self._turns
            if not session.forgotten:
                if session.idle:
                    self._busy.pop(session.id, None)
                    self._idle[session.id] = session
                    if len(self._idle) > MAX_IDLE_SESSIONS:
                        self._idle.popitem(last=False)
                else:
                    self.visits.add(session)
            self.changed.notify_all()
        if ended is not None:
            ended.set_result(None)
        if worth_logging and failure is not None:
            cause = f"{type(failure).__name__} {getattr(failure, 'reason', '')}".strip()
            session_name = session_digest(session.id)
            warn("session %s: turns cannot be stored now and stay pending (%d): %s", session_name, pending, cause)
