"""A mixed load of every RPC from many threads, through raw stubs and the shipped clients, and what it must never see.

What is written carries its session in its name, so that every answer can be told from a foreign one, and is recorded in
a `History` of its session. What was answered before a read began is the least that the read must show.
"""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from random import Random
from typing import Any, Protocol, Self, TypeVar

import grpc
from session_notes import (
    ActiveRun,
    BackgroundObserver,
    Notes,
    ObserverClient,
    PrimaryClient,
    RunState,
    Turn,
    WriteOutcome,
)
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_notes_pb2_grpc, session_state_pb2_grpc
from session_notes.v1 import session_state_pb2 as state_api
from session_notes.v1.notes_pb2 import RUN_STATE_WRITTEN
from session_notes.v1.notes_pb2 import Notes as NotesMessage
from session_notes.v1.turn_pb2 import Turn as TurnMessage

from tests.faults.history import CallError, Final, History, Kind, told
from tests.stores import Store, eventually
from tests.support import new_channel, new_session_id, value

T = TypeVar("T")

BACKGROUND = "background"
ENDS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""How any call may end while something is broken."""
BOOKS = 6
FULL = 300


class Caller(Protocol):
    """One way to make each call; what comes back is plain."""

    def append(self, session_id: str, texts: Sequence[str]) -> int: ...
    def set(self, session_id: str, name: str) -> int: ...
    def begin(self, session_id: str, run_id: str) -> tuple[int, list[str]]: ...
    def write(self, session_id: str, run_id: str) -> tuple[int, str]: ...
    def fail(self, session_id: str, run_id: str) -> int: ...
    def notes(self, session_id: str) -> tuple[int, str] | None: ...
    def batch(self, session_ids: Sequence[str]) -> list[tuple[int, str] | None]: ...
    def runs(self, session_id: str) -> list[tuple[int, str, str | None]]: ...
    def session(self, session_id: str) -> tuple[int, int, list[str], list[str]]: ...
    def sessions(self) -> list[str]: ...
    def delete(self, session_id: str) -> bool: ...


class Raw:
    """Through the generated stubs.

    Args:
        channel: The connection.
        hurry: What draws deadlines of some milliseconds and which calls to cancel; None: 2 s, and none is cancelled.
    """

    def __init__(self, channel: grpc.Channel, hurry: Random | None = None) -> None:
        self._notes = session_notes_pb2_grpc.SessionNotesStub(channel)
        self._state = session_state_pb2_grpc.SessionStateStub(channel)
        self._hurry = hurry

    def _call(self, method: Any, request: Any) -> Any:
        if self._hurry is None:
            return method(request, timeout=2)
        call = method.future(request, timeout=self._hurry.uniform(0.001, 0.06))
        if self._hurry.random() < 0.3:
            time.sleep(self._hurry.uniform(0, 0.01))
            call.cancel()
        return call.result()

    def append(self, session_id: str, texts: Sequence[str]) -> int:
        turns = [TurnMessage(speaker="user", text=text) for text in texts]
        request = state_api.AppendTurnsRequest(session_id=session_id, turns=turns)
        return int(self._call(self._state.AppendTurns, request).turn_count)

    def set(self, session_id: str, name: str) -> int:
        request = state_api.UpdateSessionRequest(session_id=session_id, set={name: value(name)})
        return int(self._call(self._state.UpdateSession, request).version)

    def begin(self, session_id: str, run_id: str) -> tuple[int, list[str]]:
        request = notes_api.BeginRunRequest(session_id=session_id, run_id=run_id, include_transcript=True)
        response = self._call(self._notes.BeginRun, request)
        return response.run.number, [turn.text for turn in response.transcript]

    def write(self, session_id: str, run_id: str) -> tuple[int, str]:
        request = notes_api.WriteNotesRequest(
            session_id=session_id, run_id=run_id, notes=NotesMessage(summary=run_id, coverage={run_id: 0.5})
        )
        response = self._call(self._notes.WriteNotes, request)
        return response.run.number, notes_api.WriteOutcome.Name(response.outcome).removeprefix("WRITE_OUTCOME_")

    def fail(self, session_id: str, run_id: str) -> int:
        request = notes_api.FailRunRequest(session_id=session_id, run_id=run_id, reason="as it happens")
        return int(self._call(self._notes.FailRun, request).run.number)

    def notes(self, session_id: str) -> tuple[int, str] | None:
        return _read(self._call(self._notes.GetNotes, notes_api.GetNotesRequest(session_id=session_id)))

    def batch(self, session_ids: Sequence[str]) -> list[tuple[int, str] | None]:
        requests = [notes_api.GetNotesRequest(session_id=one) for one in session_ids]
        response = self._call(self._notes.BatchGetNotes, notes_api.BatchGetNotesRequest(requests=requests))
        return [_read(one) for one in response.responses]

    def runs(self, session_id: str) -> list[tuple[int, str, str | None]]:
        found: list[tuple[int, str, str | None]] = []
        token = ""
        while True:
            request = notes_api.ListRunsRequest(
                session_id=session_id, include_notes=True, page_size=7, page_token=token
            )
            response = self._call(self._notes.ListRuns, request)
            found += [
                (run.number, run.run_id, run.notes.summary if run.state == RUN_STATE_WRITTEN else None)
                for run in response.runs
            ]
            if not (token := response.next_page_token):
                return found

    def session(self, session_id: str) -> tuple[int, int, list[str], list[str]]:
        request = state_api.GetSessionRequest(session_id=session_id, include_turns=True)
        session = self._call(self._state.GetSession, request).session
        return session.turn_count, session.version, [turn.text for turn in session.turns], sorted(session.fields)

    def sessions(self) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            request = state_api.ListSessionsRequest(page_size=50, page_token=token)
            response = self._call(self._state.ListSessions, request)
            found += [summary.session_id for summary in response.sessions]
            if not (token := response.next_page_token):
                return found

    def delete(self, session_id: str) -> bool:
        request = state_api.DeleteSessionRequest(session_id=session_id)
        return bool(self._call(self._state.DeleteSession, request).existed)


def _read(response: notes_api.GetNotesResponse) -> tuple[int, str] | None:
    return (response.run.number, response.notes.summary) if response.ready else None


class Shipped:
    """Through PrimaryClient and ObserverClient, with their own deadlines and retries."""

    def __init__(self, primary: PrimaryClient, observer: ObserverClient) -> None:
        self._primary, self._observer = primary, observer

    def append(self, session_id: str, texts: Sequence[str]) -> int:
        return self._primary.append_turns(session_id, [Turn("user", text) for text in texts])

    def set(self, session_id: str, name: str) -> int:
        return self._primary.update_session(session_id, {name: name}).version

    def begin(self, session_id: str, run_id: str) -> tuple[int, list[str]]:
        begun = self._observer.begin_run(session_id, run_id=run_id)
        return begun.run.number, [turn.text for turn in begun.transcript]

    def write(self, session_id: str, run_id: str) -> tuple[int, str]:
        notes = Notes(summary=run_id, coverage={run_id: 0.5})
        result = self._observer.write_notes(session_id, notes, run_id=run_id)
        return result.run.number, WriteOutcome(result.outcome).name

    def fail(self, session_id: str, run_id: str) -> int:
        return self._observer.fail_run(session_id, run_id, "as it happens").number

    def notes(self, session_id: str) -> tuple[int, str] | None:
        reading = self._primary.get_notes(session_id)
        return (reading.run.number, reading.notes.summary) if reading.run and reading.notes else None

    def batch(self, session_ids: Sequence[str]) -> list[tuple[int, str] | None]:
        return [
            (one.run.number, one.notes.summary) if one.run and one.notes else None
            for one in self._primary.batch_get_notes(session_ids)
        ]

    def runs(self, session_id: str) -> list[tuple[int, str, str | None]]:
        return [
            (run.number, run.run_id, run.notes.summary if run.notes and run.state is RunState.WRITTEN else None)
            for run in self._observer.list_runs(session_id, include_notes=True, page_size=7)
        ]

    def session(self, session_id: str) -> tuple[int, int, list[str], list[str]]:
        session = self._primary.get_session(session_id, include_turns=True)
        return session.turn_count, session.version, [turn.text for turn in session.turns], sorted(session.fields)

    def sessions(self) -> list[str]:
        return [summary.session_id for summary in self._primary.list_sessions(page_size=50)]

    def delete(self, session_id: str) -> bool:
        return self._primary.delete_session(session_id)


class Book:
    """A session, what was done to it, and the least that a read that begins now must show."""

    def __init__(self) -> None:
        self.id = new_session_id()
        self.history = History(limit=FULL)
        self.turns = self.version = self.current = 0
        self.written: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def name(self, kind: str) -> str:
        """A name that nobody else has, for something of this session."""
        return f"{kind}:{self.id}:{next(self._numbers)}"

    def owns(self, name: str) -> bool:
        """Whether a name is of this session."""
        return f":{self.id}:" in name

    def noted(self, *, turns: int = 0, version: int = 0, current: int = 0) -> None:
        """Keeps what was answered."""
        with self._lock:
            self.turns, self.version = max(self.turns, turns), max(self.version, version)
            self.current = max(self.current, current)


class Load:
    """Threads that call, until the block ends; `pause` and `go_on` in between.

    Args:
        target: The sidecar.
        seed: What all choices come from.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.target = target
        self.tally: Counter[tuple[str, grpc.StatusCode]] = Counter()
        self.wrong: list[str] = []
        """What no client must ever see."""
        self.books = [Book() for _ in range(BOOKS)]
        self.full: list[Book] = []
        self.deleted: list[str] = []
        self.known: set[str] = {book.id for book in self.books}
        self._seed = seed
        self._channels = [new_channel(target) for _ in range(3)]
        self._primary, self._observer = PrimaryClient(target), ObserverClient(target)
        self._background: BackgroundObserver | None = None
        self._go, self._stopped = threading.Event(), threading.Event()
        self._busy, self._lock = 0, threading.Lock()
        self._pool = ThreadPoolExecutor(9, thread_name_prefix="load")
        self._running: list[Future[None]] = []
        logging.getLogger("session_notes").setLevel(logging.ERROR)  # Of every call that fails there is a warning.

    def __enter__(self) -> Self:
        shipped: Caller = Shipped(self._primary, self._observer)
        writers: list[Caller] = [Raw(self._channels[0]), Raw(self._channels[1]), shipped, shipped]
        work: list[Callable[[Random], None]] = [lambda rng, via=via: self._write(via, rng) for via in writers]  # type: ignore[misc]
        work += [lambda rng, via=via: self._read(via, rng) for via in (Raw(self._channels[1]), shipped)]  # type: ignore[misc]
        hasty = Raw(self._channels[2], Random(f"{self._seed} hurry"))
        work += [lambda rng: rng.choice((self._write, self._read))(hasty, rng)]
        work += [lambda rng: self._delete(rng.choice((writers[0], shipped)), rng), self._submit]
        self._running = [self._pool.submit(self._loop, index, one) for index, one in enumerate(work)]
        self.go_on()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopped.set()
        if self._go.is_set():
            self.pause()
        self._go.set()
        self._pool.shutdown()
        self._primary.close()
        self._observer.close()
        for channel in self._channels:
            channel.close()
        if kind is None:
            for one in self._running:
                one.result()

    def pause(self) -> None:
        """Returns when nothing is in flight."""
        self._go.clear()
        eventually(lambda: self._busy == 0, 90)
        if self._background is not None:
            self._background.close()
            self._background = None

    def go_on(self) -> None:
        """Ends a pause."""
        for one in self._running:
            assert not one.done() or self._stopped.is_set(), one.exception()
        self._background = BackgroundObserver(self._observe, target=self.target, observer=BACKGROUND, max_workers=2)
        self._go.set()

    def call(self, rpc: str, call: Callable[[], T], *also: grpc.StatusCode) -> T:
        """Makes a call and counts how it ended; anything but ENDS and `also` is wrong."""
        try:
            result = call()
        except CallError as error:
            code, text = told(error)
            self._count(rpc, code)
            if code not in ENDS and code not in also:
                self.wrong.append(f"{rpc}: {code.name} {text}")
            raise
        self._count(rpc, grpc.StatusCode.OK)
        return result

    def _count(self, rpc: str, code: grpc.StatusCode) -> None:
        with self._lock:
            self.tally[rpc, code] += 1

    def flood(self, calls: int) -> None:
        """So many calls at once, over one connection."""
        with new_channel(self.target) as channel:
            stub = session_notes_pb2_grpc.SessionNotesStub(channel)
            started = [
                (book, stub.GetNotes.future(notes_api.GetNotesRequest(session_id=book.id), timeout=2))
                for book in (self.books[number % BOOKS] for number in range(calls))
            ]
            for book, one in started:
                with suppress(*CallError):
                    self._check_notes(book, 0, self.call("GetNotes", lambda one=one: _read(one.result())))  # type: ignore[misc]

    def faults(self, store: Store, caller: Caller) -> list[str]:
        """What at the end is not as it must be, read past the sidecar, and by repeating some writes."""
        found: list[str] = []
        for book in (*self.books, *self.full):
            final = Final.of(store, book.id)
            found += [f"{book.id}: {fault}" for fault in book.history.faults(final)]
            found += [f"{book.id}: lost: run {name}" for name in book.written if name not in final.runs]
            for name, number in Random(self._seed).sample(sorted(book.written.items()), min(5, len(book.written))):
                if (again := caller.write(book.id, name)) != (number, "DUPLICATE"):
                    found.append(f"{book.id}: run {name} was written as {number}, a retry is answered {again}")
            self._check_notes(book, book.current, caller.notes(book.id))
            self._check_background(Final.of(store, book.id, BACKGROUND), book.id)
        for session_id in self.deleted:
            left = set(store.keys(session_id)) - {store.key(session_id, "deleted").encode()}
            found += [f"deleted, yet there: {key!r}" for key in left]
        return [*self.wrong, *found]

    def _loop(self, index: int, work: Callable[[Random], None]) -> None:
        rng = Random(f"{self._seed} {index}")
        while not self._stopped.is_set():
            self._go.wait()
            with self._lock:
                if not self._go.is_set():
                    continue
                self._busy += 1
            try:
                work(rng)
            except CallError:
                self._stopped.wait(0.02)  # As a client would.
            finally:
                with self._lock:
                    self._busy -= 1

    def _book(self, rng: Random) -> Book:
        index = rng.randrange(BOOKS)
        with self._lock:
            if self.books[index].history.full:
                self.full.append(self.books[index])
                self.books[index] = Book()
                self.known.add(self.books[index].id)
            return self.books[index]

    def _record(self, book: Book, kind: Kind, names: Sequence[str], call: Callable[[], int]) -> int:
        """Makes a call that writes, recorded in the history → what it was answered, 0 where it was not."""
        answers: list[int] = []

        def answered() -> int:
            answers.append(call())
            return answers[0]

        if book.history.call_many(kind, names, answered) != "ok":
            self._stopped.wait(0.02)  # As a client would.
        return answers[0] if answers else 0

    def _write(self, via: Caller, rng: Random) -> None:
        """Turns, some of them together; a field; notes; a run begun, and then written or failed."""
        book = self._book(rng)
        kind = rng.choice(("turn", "turn", "field", "notes", "run", "run"))
        if kind == "turn":
            names = [book.name("turn") for _ in range(rng.choice((1, 1, 3)))]
            append = lambda: self.call("AppendTurns", lambda: via.append(book.id, names))  # noqa: E731
            book.noted(turns=self._record(book, "turn", names, append))
        elif kind == "field":
            name = book.name("field")
            update = lambda: self.call("UpdateSession", lambda: via.set(book.id, name))  # noqa: E731
            book.noted(version=self._record(book, "field", [name], update))
        elif kind == "notes":
            name = book.name("run")
            self._record(book, "run", [name], lambda: self._write_notes(via, book, name))
        else:
            name = book.name("run")
            begun = self._record(book, "run", [name], lambda: self._begin(via, book, name))
            if not begun:
                return
            if rng.random() < 0.7:
                ended = self._write_notes(via, book, name)
            else:
                ended = self.call("FailRun", lambda: via.fail(book.id, name))
            if ended != begun:
                self.wrong.append(f"run {name} begun as {begun}, ended as {ended}")

    def _begin(self, via: Caller, book: Book, name: str) -> int:
        number, transcript = self.call("BeginRun", lambda: via.begin(book.id, name))
        self.wrong += [f"foreign: {text} in the transcript of {book.id}" for text in transcript if not book.owns(text)]
        return number

    def _write_notes(self, via: Caller, book: Book, name: str) -> int:
        number, outcome = self.call("WriteNotes", lambda: via.write(book.id, name))
        book.written[name] = number
        book.noted(current=number if outcome == "ACCEPTED" else 0)
        return number

    def _read(self, via: Caller, rng: Random) -> None:
        """Every read: it shows this session and no other, and at least what was answered before."""
        book, kind = self._book(rng), rng.choice(("notes", "notes", "notes", "batch", "session", "runs", "sessions"))
        turns, version, current = book.turns, book.version, book.current
        if kind == "notes":
            self._check_notes(book, current, self.call("GetNotes", lambda: via.notes(book.id)))
        elif kind == "batch":
            books = [(one, one.current) for one in self.books]
            readings = self.call("BatchGetNotes", lambda: via.batch([one.id for one, _ in books]))
            for (one, least), reading in zip(books, readings, strict=True):
                self._check_notes(one, least, reading)
        elif kind == "session":
            count, at, texts, fields = self.call("GetSession", lambda: via.session(book.id))
            self.wrong += [f"foreign: {name} in {book.id}" for name in texts + fields if not book.owns(name)]
            if (len(texts), len(fields)) != (count, at) or count < turns or at < version:
                found = f"{len(texts)} turns of {count}, {len(fields)} fields at {at}"
                self.wrong.append(f"{book.id}: {found}; answered before: {turns}, {version}")
        elif kind == "runs":
            runs = self.call("ListRuns", lambda: via.runs(book.id))
            for _, name, summary in runs:
                if not book.owns(name) or summary not in (None, "", name):
                    self.wrong.append(f"foreign: run {name} with {summary} in {book.id}")
        else:
            self.wrong += [
                f"foreign: session {one}" for one in self.call("ListSessions", via.sessions) if one not in self.known
            ]

    def _check_notes(self, book: Book, least: int, reading: tuple[int, str] | None) -> None:
        number, summary = reading or (0, "")
        if reading and not book.owns(summary):
            self.wrong.append(f"foreign: {summary} read in {book.id}")
        if number < least:
            self.wrong.append(f"stale: run {number} of {book.id} read after {least} was written")

    def _check_background(self, final: Final, session_id: str) -> None:
        if sorted(final.runs.values()) != list(range(1, len(final.runs) + 1)):
            self.wrong.append(f"background runs of {session_id} with a gap or a repeat: {sorted(final.runs.values())}")

    def _delete(self, via: Caller, rng: Random) -> None:
        """A session's life: what was deleted is gone, and a run at work meanwhile cannot bring it back."""
        self._stopped.wait(0.1)
        book = Book()
        self.known.add(book.id)
        at_work, written = book.name("run"), book.name("run")
        self.call("AppendTurns", lambda: via.append(book.id, [book.name("turn")]))
        self.call("UpdateSession", lambda: via.set(book.id, book.name("field")))
        self.call("BeginRun", lambda: via.begin(book.id, at_work))
        self.call("WriteNotes", lambda: via.write(book.id, written))
        # From here on all of it is there; a deletion without an answer is tried again.
        for attempt in range(5):
            try:
                if not self.call("DeleteSession", lambda: via.delete(book.id)) and attempt == 0:
                    self.wrong.append(f"lost: session {book.id}, whose writes were all answered")
                break
            except CallError:
                self._stopped.wait(0.3)
        else:
            return
        self.deleted.append(book.id)
        try:
            self.call("WriteNotes", lambda: via.write(book.id, at_work), grpc.StatusCode.FAILED_PRECONDITION)
            self.wrong.append(f"a run that was at work wrote to {book.id}, which was deleted")
        except CallError:
            pass
        if found := self.call("GetSession", lambda: via.session(book.id))[2:] != ([], []):
            self.wrong.append(f"deleted, yet there: {found} in {book.id}")

    def _submit(self, rng: Random) -> None:
        self._stopped.wait(0.1)
        if self._background is not None:
            self._background.submit(self._book(rng).id)

    def _observe(self, run: ActiveRun) -> Notes:
        foreign = [turn.text for turn in run.transcript if f":{run.session_id}:" not in turn.text]
        self.wrong += [f"foreign: {text} in the background's transcript of {run.session_id}" for text in foreign]
        self._count("(background runs)", grpc.StatusCode.OK)
        return Notes(summary=f"{len(run.transcript)} turns")
