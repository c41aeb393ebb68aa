"""Pending turns of all sessions of one recorder: what to send next, and what an answer means. No I/O happens here.

A visit to a session is a generator. It yields calls, as functions that take nothing, and is sent their results; a
thread makes them with a blocking client, a task awaits them with one for asyncio.
"""

import heapq
import re
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import count, islice
from typing import Any, NamedTuple, Protocol, TypeAlias

from session_notes._errors import (
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    SessionNotesError,
    TooLarge,
    TurnCountMismatch,
    Unauthenticated,
    Unavailable,
    UsageError,
)
from session_notes._pending import Pending
from session_notes._runs import LOGGER, log_name
from session_notes._storable import MAX_TURN_BYTES, Storable, messages, storable
from session_notes._types import Session, Turn

Visit: TypeAlias = Generator[Callable[[], Any], Any, None]

MAX_PENDING_TURNS = 10_000
MAX_PENDING_BYTES = 16 * 1024 * 1024
"""How much may be pending in all. Turns beyond either bound are dropped, the newest first."""

MAX_IDLE_SESSIONS = 10_000
"""Of so many sessions without pending turns it is known how many turns are stored; others are asked about again."""

# A call stays well below the sidecar's 5,000 turns and 4 MiB: its deadline is that of a single turn.
_MAX_CALL_TURNS = 250
_MAX_CALL_BYTES = 512 * 1024
_COMPARE_TIMEOUT = timedelta(seconds=10)
"""For a whole transcript, which can be large."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 1.0

_MAX_RETRY_AFTER = timedelta(seconds=5)
"""The sidecar may ask for a longer pause."""

_SESSION_ID = re.compile(r"[!-z|~]{1,256}")
_TURN_AT_FAULT = re.compile(r"turns\[(\d+)\]")

# The sidecar has done nothing about a call that ends like this.
_NOT_DONE = (Overloaded, InvalidArgument, TooLarge, Unauthenticated, PermissionDenied, UsageError)


class Client(Protocol):
    """The calls of either primary client; those of the one for asyncio return awaitables."""

    def append_turns(
        self, session_id: str, turns: Iterable[Turn], *, expected_turn_count: int | None, timeout: timedelta | None
    ) -> Any:
        """Append to the transcript."""

    def get_session(self, session_id: str, *, include_turns: bool, timeout: timedelta | None) -> Any:
        """Read the session."""


class Observer(Protocol):
    """A background observer, blocking or not."""

    def submit(self, session_id: str) -> None:
        """Have the session looked at; return at once."""


class _Entry(NamedTuple):
    turn: Turn
    size: int
    observe: bool
    """Whether a run is due once this turn is stored."""


class PendingSession:
    """One session: how many turns are stored as last known, and those that are not stored yet."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.stored: int | None = None
        self.pending: deque[_Entry] = deque()
        self.run_due = False
        self.unsure = 0
        """The first so many pending turns were sent, expecting `stored` turns, and the outcome is not known."""
        self.one_by_one = 0
        """The next so many turns go in calls of their own: one of them was refused, and it is not known which."""
        self.failures = 0
        self.visited = False
        self.visit_ended: Future[None] | None = None
        """For those who wait until the visit has ended."""
        self.forgotten = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.pending or self.run_due)


class Backlog:
    """Pending turns, in order within a session. Safe to use from many threads.

    Args:
        observer: Gets a session submitted once its turns are stored; None: there are no runs.

    Attributes:
        changed: Is notified when turns were added, a visit ended, or the backlog is being closed.
    """

    def __init__(self, observer: Observer | None) -> None:
        self.changed = threading.Condition()
        self.closing = False
        self._submits = observer is not None
        self._observer = observer
        self._busy: dict[str, PendingSession] = {}
        self._idle: OrderedDict[str, PendingSession] = OrderedDict()
        self._ready: deque[PendingSession] = deque()
        self._later: list[tuple[float, int, PendingSession]] = []
        self._order = count()
        self._turns = 0
        self._bytes = 0
        self._dropped = 0
        # Consecutive calls, of any sessions, that failed for no reason of the session: an outage, which must not cost a
        # call per session.
        self._unanswered = 0
        self._resume_at = 0.0
        self._last_error = ""
        self._turn_limit = MAX_TURN_BYTES

    @property
    def empty(self) -> bool:
        """Whether nothing is pending, nor in flight."""
        return not self._busy

    def add(self, session_id: object, things: Sequence[object], observe: bool) -> bool:
        """Take turns down; return whether there is something to do."""
        if not isinstance(session_id, str) or not _SESSION_ID.fullmatch(session_id):
            kind = "" if isinstance(session_id, str) else f", but {type(session_id).__name__}"
            log("%s not recorded: the session id is not 1 to 256 printable ASCII characters%s", number_of(things), kind)
            return False
        turns, flaws = self._storable(things)
        with self.changed:
            if self.closing:
                flaws[f"{number_of(turns)} not recorded: the recorder is closed"] += 1
                taken = 0
            else:
                taken = self._take_down(session_id, turns, observe and self._submits)
            first_drop = not self._dropped
            if not self.closing:
                self._dropped += len(turns) - taken
            first_drop = first_drop and self._dropped > 0
            dropped, pending = self._dropped, self._turns
            self.changed.notify_all()
            empty = self.empty
        if flaws:
            what = ", ".join(f"{flaw} ({times} times)" if times > 1 else flaw for flaw, times in flaws.items())
            log("session %s: %s", log_name(session_id), what)
        if first_drop:
            log(
                "%s pending, the most that a recorder keeps: turns are dropped (%d so far) until the sidecar stores "
                "turns again",
                number_of(pending),
                dropped,
            )
        return not empty

    def _storable(self, things: Iterable[object]) -> tuple[list[Storable], Counter[str]]:
        turns, flaws = [], Counter[str]()
        for thing in things:
            if not isinstance(thing, Turn):
                flaws[f"left out, no Turn: {type(thing).__name__}"] += 1
                continue
            try:
                turn = storable(thing, self._turn_limit)
            except Exception as error:
                # A text that is none. The message is our own; of anything else the name alone.
                flaws[f"a turn left out: {error if type(error) is TypeError else type(error).__name__}"] += 1
                continue
            turns.append(turn)
            flaws.update(turn.flaws)
        return turns, flaws

    def _take_down(self, session_id: str, turns: list[Storable], observe: bool) -> int:
        session = self._busy.get(session_id) or self._idle.get(session_id) or PendingSession(session_id)
        taken = 0
        for turn, size, _ in turns:
            if self._turns == MAX_PENDING_TURNS or self._bytes + size > MAX_PENDING_BYTES:
                break
            session.pending.append(_Entry(turn, size, False))
            self._turns += 1
            self._bytes += size
            taken += 1
        if observe and (taken or not turns):
            self._run_due(session)
        if not session.idle and session_id not in self._busy:
            self._idle.pop(session_id, None)
            self._busy[session_id] = session
            self._ready.append(session)
        return taken

    @staticmethod
    def _run_due(session: PendingSession) -> None:
        """Have a run submitted once what is pending now is stored."""
        if session.pending:
            session.pending[-1] = session.pending[-1]._replace(observe=True)
        else:
            session.run_due = True

    def known(self, session_id: object) -> Pending | None:
        """Return what is known of the session's turns; None where nothing is."""
        if not isinstance(session_id, str):
            return None
        with self.changed:
            session = self._busy.get(session_id) or self._idle.get(session_id)
            if session is None or (session.stored is None and not session.pending):
                return None
            return Pending(session.stored, len(session.pending), session.visited or session.unsure > 0)

    def forget(self, session_id: str) -> "Future[None] | None":
        """Drop what is pending and known of a session; return a future of the call in flight for it."""
        with self.changed:
            session = self._busy.pop(session_id, None) or self._idle.pop(session_id, None)
            if session is None:
                return None
            self._clear(session)
            if session in self._ready:
                self._ready.remove(session)
            if session.visited and session.visit_ended is None:
                session.visit_ended = Future()
            self.changed.notify_all()
            return session.visit_ended

    def _clear(self, session: PendingSession) -> None:
        session.forgotten = True
        self._turns -= len(session.pending)
        self._bytes -= sum(entry.size for entry in session.pending)
        session.pending.clear()
        session.run_due = False

    def close(self, *, submit: bool = True) -> None:
        """Take nothing more, and try at once what waits for its next try."""
        with self.changed:
            self.closing = True
            self._submits = submit
            self._resume_at = 0.0
            self._unanswered = 0
            for _, _, session in self._later:
                session.failures = 0
                self._ready.append(session)
            self._later.clear()
            self.changed.notify_all()

    def end(self) -> None:
        """Give up what is pending, and say so."""
        with self.changed:
            self.closing = True
            self._submits = False
            turns, sessions, dropped = self._turns, sum(bool(s.pending) for s in self._busy.values()), self._dropped
            self._dropped = 0
            for session in self._busy.values():
                self._clear(session)
            self._busy.clear()
            self._ready.clear()
            self._later.clear()
            self.changed.notify_all()
        if turns or dropped:
            log(
                "%s of %s not recorded: the recorder ended before they could be stored%s%s",
                number_of(turns),
                number_of(sessions, "session"),
                f" ({self._last_error})" if self._last_error else "",
                f"; {dropped} more were dropped before" if dropped else "",
            )

    def take(self) -> PendingSession | None:
        """Return the session to visit now; None: there is none. To be called with `changed` held."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        if now < self._resume_at:
            return None
        while self._ready:
            session = self._ready.popleft()
            if not session.forgotten:
                session.visited = True
                return session
        return None

    def seconds_to_next(self) -> float | None:
        """Return how long there is nothing to do, unless turns are added; None: until then. With `changed` held."""
        if not self._ready and not self._later:
            return None
        due = time.monotonic() if self._ready else self._later[0][0]
        return max(0.0, max(due, self._resume_at) - time.monotonic())

    def visit(self, session: PendingSession, client: Client, timeout: timedelta) -> Visit:
        """Store some of a session's turns, and submit a run if one is due; give up for now where that fails."""
        failure: Exception | None = None
        try:
            if session.pending:
                yield from self._store(session, client, timeout)
            self._submit(session)
        except Exception as error:
            failure = error
        finally:
            self._leave(session, failure)

    def _store(self, session: PendingSession, client: Client, timeout: timedelta) -> Visit:
        before, expected = session.unsure, session.stored or 0
        with self.changed:
            batch = self._batch(session)
        turns = [entry.turn for entry in batch]
        session.unsure = len(batch)  # Until an answer says otherwise, however this ends.
        try:
            stored = yield partial(
                client.append_turns, session.id, turns, expected_turn_count=expected, timeout=timeout
            )
        except TurnCountMismatch as error:
            # Another writer's turns came before, or the session was deleted, or an earlier try did get through.
            if error.actual is None:
                raise
            actual, landed = error.actual, 0
            if before:
                session_now = yield partial(
                    client.get_session, session.id, include_turns=True, timeout=_COMPARE_TIMEOUT
                )
                actual, landed = session_now.turn_count, len(batch) if _holds(session_now, expected, turns) else 0
            self._stored(session, landed, actual)
        except _NOT_DONE as error:
            session.unsure = before
            if isinstance(error, InvalidArgument | TooLarge) and _refuses_content(error):
                self._refused(session, batch, error)
            else:
                raise
        else:
            self._stored(session, len(batch), stored)

    @staticmethod
    def _batch(session: PendingSession) -> list[_Entry]:
        if session.unsure:
            return list(islice(session.pending, session.unsure))  # The same again, or an answer would say nothing.
        batch: list[_Entry] = []
        size = 0
        for entry in islice(session.pending, 1 if session.one_by_one else _MAX_CALL_TURNS):
            size += entry.size
            if batch and size > _MAX_CALL_BYTES:
                break
            batch.append(entry)
        return batch

    def _stored(self, session: PendingSession, landed: int, stored: int) -> None:
        """The first `landed` pending turns are stored, and the transcript has `stored` turns."""
        with self.changed:
            session.unsure = 0
            session.stored = stored
            session.one_by_one = max(0, session.one_by_one - landed)
            for _ in range(min(landed, len(session.pending))):
                entry = session.pending.popleft()
                session.run_due |= entry.observe
                self._turns -= 1
                self._bytes -= entry.size
            dropped = self._dropped
            # Not at once: where turns come faster than they are stored, there would be a line for each.
            again = dropped and self._turns <= MAX_PENDING_TURNS // 2 and self._bytes <= MAX_PENDING_BYTES // 2
            if again:
                self._dropped = 0
        if again:
            log("turns are stored again; %d were dropped", dropped)

    def _refused(self, session: PendingSession, batch: list[_Entry], error: InvalidArgument | TooLarge) -> None:
        """The sidecar takes these turns at no time: find the one at fault, and shorten it or leave it out."""
        places = [error.metadata.get("field", ""), *(violation.field for violation in getattr(error, "violations", ()))]
        index = next((int(match[1]) for place in places if (match := _TURN_AT_FAULT.match(place))), None)
        with self.changed:
            session.unsure = 0
            if session.forgotten:
                return
            if index is None and len(batch) > 1:
                session.one_by_one = len(batch)
                return
            index = min(index or 0, len(batch) - 1)
            entry = batch[index]
            limit = error.limit if isinstance(error, TooLarge) else None
            shorter = storable(entry.turn, limit) if limit else None
            if shorter and shorter.size < entry.size and shorter.size <= (limit or 0):
                self._turn_limit = min(self._turn_limit, limit or self._turn_limit)
                session.pending[index] = _Entry(shorter.turn, shorter.size, entry.observe)
                self._bytes += shorter.size - entry.size
                what = "text cut" if len(shorter.turn.text) < len(entry.turn.text) else "extra left out"
            else:
                del session.pending[index]
                session.one_by_one = max(0, session.one_by_one - 1)
                self._turns -= 1
                self._bytes -= entry.size
                if entry.observe and index:
                    session.pending[index - 1] = session.pending[index - 1]._replace(observe=True)
                elif entry.observe:
                    session.run_due = True
                what = "a turn not recorded"
        log("session %s: %s: %s %s", log_name(session.id), what, type(error).__name__, error.reason)

    def _submit(self, session: PendingSession) -> None:
        with self.changed:
            due, session.run_due = session.run_due, False
        if not due or self._observer is None or not self._submits:
            return
        try:
            self._observer.submit(session.id)
        except Exception as error:
            log("session %s: no run was submitted: %s", log_name(session.id), type(error).__name__)

    def _leave(self, session: PendingSession, failure: Exception | None) -> None:
        """A visit is over: to be gone on with, tried again later, or with nothing left to do."""
        with self.changed:
            session.visited = False
            ended, session.visit_ended = session.visit_ended, None
            said = self._note(session, failure) and not session.forgotten
            pending = self._turns
            if not session.forgotten:
                if session.idle:
                    self._busy.pop(session.id, None)
                    self._idle[session.id] = session
                    if len(self._idle) > MAX_IDLE_SESSIONS:
                        self._idle.popitem(last=False)
                elif failure is not None:
                    due = time.monotonic() + _pause(session.failures)
                    heapq.heappush(self._later, (due, next(self._order), session))
                else:
                    self._ready.append(session)
            self.changed.notify_all()
        if ended is not None:
            ended.set_result(None)
        if said and failure is not None:
            why = f"{type(failure).__name__} {getattr(failure, 'reason', '')}".strip()
            log("session %s: turns cannot be stored now, and wait (%d pending): %s", log_name(session.id), pending, why)

    def _note(self, session: PendingSession, failure: Exception | None) -> bool:
        """Count failures, of the session and of the sidecar; return whether to say so: not at once, it may pass."""
        if failure is None:
            session.failures = self._unanswered = 0
            self._resume_at = 0.0
            return False
        session.failures += 1
        self._last_error = type(failure).__name__
        if isinstance(failure, Unavailable | Unauthenticated | UsageError):
            self._unanswered += 1
            asked = failure.retry_after or timedelta()
            pause = max(_pause(self._unanswered), min(asked, _MAX_RETRY_AFTER).total_seconds())
            self._resume_at = time.monotonic() + pause
            return self._unanswered == 2 or (self._unanswered == 1 and session.failures == 2)
        return session.failures == 2


def number_of(things: int | Sequence[object], name: str = "turn") -> str:
    """Return a number of things in words."""
    number = things if isinstance(things, int) else len(things)
    return f"{number} {name}{'' if number == 1 else 's'}"


def _pause(failures: int) -> float:
    import random  # a tenth of this package's import time, for those who never need it

    # Jitter, so that many recorders of one sidecar do not come back all at once.
    pause = min(_FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 10), _LONGEST_PAUSE_SECONDS)
    return pause * random.uniform(0.5, 1)  # noqa: S311 - no secret in it


def _refuses_content(error: SessionNotesError) -> bool:
    """Whether the request is at fault. A token that cannot be read, which has no reason, is no fault of a turn."""
    return bool(error.reason or getattr(error, "violations", ()))


def _holds(session: Session, before: int, turns: list[Turn]) -> bool:
    """Whether the transcript has these turns, appended when it had `before`; of old turns it may be cut."""
    if session.turn_count < before + len(turns):
        return False
    first = session.turn_count - len(session.turns)
    stored = session.turns[max(0, before - first) : max(0, before + len(turns) - first)]
    sent = turns[len(turns) - len(stored) :]
    return messages(stored) == messages(sent)


def log(message: str, *args: object) -> None:
    """Log a warning. It is said where nothing may be raised, and handlers of an application may raise."""
    with suppress(Exception):
        LOGGER.warning(message, *args)
