"""The load of the soak: every RPC, from nine threads, through the generated stubs and the Python clients.

Every written name contains its session's id, so that another session's data in a response is recognized immediately.
Writes and reads are recorded per session.
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
from typing import Self, TypeVar

import grpc
from session_notes import ActiveRun, BackgroundObserver, Notes, ObserverClient, PrimaryClient
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_notes_pb2_grpc
from session_notes_tools.replay.history import SessionHistory
from session_notes_tools.replay.records import Write, WriteKind
from session_notes_tools.replay.verdicts import broken_promises

from tests.faults.callers import Caller, ClientCaller, StubCaller, current_notes
from tests.faults.recorder import CallError, Recorder, read_back, status_and_text
from tests.stores import Store, eventually
from tests.support import new_channel, new_session_id

T = TypeVar("T")

BACKGROUND = "background"
EXPECTED_STATUSES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
"""The statuses that any call may have during a fault."""
SESSIONS = 6
FULL = 300


class LoadedSession:
    """A session under load, and the record of its writes and reads."""

    def __init__(self) -> None:
        self.id = new_session_id()
        self.recorder = Recorder(self.id, limit=FULL)
        self.run_numbers: dict[str, int] = {}
        """The runs whose notes were acknowledged."""
        self._numbers = itertools.count(1)

    def name(self, kind: str) -> str:
        """Return a new unique name for a part of this session."""
        return f"{kind}:{self.id}:{next(self._numbers)}"

    def owns(self, name: str) -> bool:
        """Return whether a name belongs to this session."""
        return f":{self.id}:" in name


class Load:
    """Threads that make calls until the block ends, except between `pause` and `resume`.

    Args:
        target: The sidecar.
        seed: The seed of every random choice.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.target = target
        self.statuses: Counter[tuple[str, grpc.StatusCode]] = Counter()
        self.errors: list[str] = []
        """Responses that no client must ever get."""
        self.sessions = [LoadedSession() for _ in range(SESSIONS)]
        self.full: list[LoadedSession] = []
        self.deleted: list[str] = []
        self.session_ids: set[str] = {session.id for session in self.sessions}
        self._seed = seed
        self._channels = [new_channel(target) for _ in range(3)]
        self._primary, self._observer = PrimaryClient(target), ObserverClient(target)
        self._background: BackgroundObserver | None = None
        self._go, self._stopped = threading.Event(), threading.Event()
        self._busy, self._lock = 0, threading.Lock()
        self._pool = ThreadPoolExecutor(9, thread_name_prefix="load")
        self._futures: list[Future[None]] = []
        logging.getLogger("session_notes").setLevel(logging.ERROR)  # The clients log a warning for each failed call.

    def __enter__(self) -> Self:
        clients: Caller = ClientCaller(self._primary, self._observer)
        writers: list[Caller] = [StubCaller(self._channels[0]), StubCaller(self._channels[1]), clients, clients]
        readers: list[Caller] = [StubCaller(self._channels[1]), clients]
        hasty = StubCaller(self._channels[2], Random(f"{self._seed} haste"))
        tasks: list[Callable[[Random], None]] = [
            *(lambda rng, caller=caller: self._write(caller, rng) for caller in writers),
            *(lambda rng, caller=caller: self._read(caller, rng) for caller in readers),
            lambda rng: rng.choice((self._write, self._read))(hasty, rng),
            lambda rng: self._delete(rng.choice((writers[0], clients))),
            self._submit,
        ]
        self._futures = [self._pool.submit(self._repeat, index, task) for index, task in enumerate(tasks)]
        self.resume()
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
            for future in self._futures:
                future.result()

    def pause(self) -> None:
        """Stop making calls, and return when none is in flight."""
        self._go.clear()
        eventually(lambda: self._busy == 0, 90)
        if self._background is not None:
            self._background.close()
            self._background = None

    def resume(self) -> None:
        """Make calls again."""
        for future in self._futures:
            assert not future.done() or self._stopped.is_set(), future.exception()
        self._background = BackgroundObserver(
            self._observe, brakes=False, target=self.target, observer=BACKGROUND, max_workers=2
        )
        self._go.set()

    def flood(self, calls: int) -> None:
        """Make many calls at once, over one connection."""
        with new_channel(self.target) as channel:
            stub, sent = session_notes_pb2_grpc.SessionNotesStub(channel), time.monotonic()
            futures = [
                (session, stub.GetNotes.future(notes_api.GetNotesRequest(session_id=session.id), timeout=2))
                for session in (self.sessions[number % SESSIONS] for number in range(calls))
            ]
            for session, future in futures:
                with suppress(*CallError):
                    self._call("GetNotes", future.result)
                    self._check_notes(session, sent, current_notes(future.result()))

    def problems(self, store: Store, caller: Caller) -> list[str]:
        """Return all errors, and the promises broken by the end state or by retries of a sample of the writes."""
        problems: list[str] = []
        for session in (*self.sessions, *self.full):
            self._check_notes(session, time.monotonic(), caller.notes(session.id))
            problems += [f"{session.id}: {problem}" for problem in session.recorder.problems(store)]
            numbers = sorted(session.run_numbers.items())
            for name, number in Random(self._seed).sample(numbers, min(5, len(numbers))):
                if (retried := caller.write(session.id, name)) != (number, "DUPLICATE"):
                    problems.append(f"{session.id}: duplicate: run {name} had number {number}, a retry got {retried}")
            background = [run.number for run in read_back(store, session.id, BACKGROUND).runs]
            if background != list(range(len(background), 0, -1)):
                problems.append(f"{session.id}: background run numbers with a gap or a repeat: {background}")
        for session_id in self.deleted:
            keys = set(store.keys(session_id)) - {store.key(session_id, "deleted").encode()}
            remains = ", ".join(map(repr, keys))
            problems += broken_promises(SessionHistory(session_id, remains=remains))
        return [*self.errors, *problems]

    def _call(self, rpc: str, call: Callable[[], T], *expected: grpc.StatusCode) -> T:
        """Make a call and count its status. An unexpected status is an error."""
        try:
            result = call()
        except CallError as error:
            code, text = status_and_text(error)
            self._count(rpc, code)
            if code not in EXPECTED_STATUSES and code not in expected:
                self.errors.append(f"{rpc}: {code.name} {text}")
            raise
        self._count(rpc, grpc.StatusCode.OK)
        return result

    def _count(self, rpc: str, code: grpc.StatusCode) -> None:
        with self._lock:
            self.statuses[rpc, code] += 1

    def _repeat(self, index: int, task: Callable[[Random], None]) -> None:
        rng = Random(f"{self._seed} {index}")
        while not self._stopped.is_set():
            self._go.wait()
            with self._lock:
                if not self._go.is_set():
                    continue
                self._busy += 1
            try:
                task(rng)
            except CallError:
                self._stopped.wait(0.02)  # A pause, as in a real client.
            finally:
                with self._lock:
                    self._busy -= 1

    def _session(self, rng: Random) -> LoadedSession:
        index = rng.randrange(SESSIONS)
        with self._lock:
            if self.sessions[index].recorder.full:
                self.full.append(self.sessions[index])
                self.sessions[index] = LoadedSession()
                self.session_ids.add(self.sessions[index].id)
            return self.sessions[index]

    def _record(self, session: LoadedSession, kind: WriteKind, names: Sequence[str], call: Callable[[], int]) -> int:
        """Record a call that writes, and return its number; 0 unless acknowledged."""
        number = session.recorder.record(kind, names, call)
        if not number:
            self._stopped.wait(0.02)  # A pause, as in a real client.
        return number

    def _write(self, caller: Caller, rng: Random) -> None:
        """Append one turn or several, set a field, write notes, or begin a run, perhaps renew it, and end it."""
        session = self._session(rng)
        kind = rng.choice(("turn", "turn", "field", "notes", "run", "run"))
        if kind == "turn":
            turns = [session.name("turn") for _ in range(rng.choice((1, 1, 3)))]
            append = lambda: self._call("AppendTurns", lambda: caller.append(session.id, turns))  # noqa: E731
            self._record(session, "turn", turns, append)
        elif kind == "field":
            name = session.name("field")
            update = lambda: self._call("UpdateSession", lambda: caller.set(session.id, name))  # noqa: E731
            self._record(session, "field", [name], update)
        elif kind == "notes":
            name = session.name("run")
            self._record(session, "run", [name], lambda: self._write_notes(caller, session, name))
        else:
            name = session.name("run")
            number = self._record(session, "run", [name], lambda: self._begin(caller, session, name))
            if not number:
                return
            if rng.random() < 0.3:
                renewed = self._call("RenewRun", lambda: caller.renew(session.id, name))
                if renewed != number:
                    self.errors.append(f"run {name} began as number {number} and was renewed as {renewed}")
            if rng.random() < 0.7:
                end = self._write_notes(caller, session, name)
            else:
                end = self._call("FailRun", lambda: caller.fail(session.id, name))
            if end != number:
                self.errors.append(f"run {name} began as number {number} and ended as {end}")

    def _begin(self, caller: Caller, session: LoadedSession, name: str) -> int:
        number, transcript = self._call("BeginRun", lambda: caller.begin(session.id, name))
        self.errors += [
            f"foreign: {text} in the transcript of {session.id}" for text in transcript if not session.owns(text)
        ]
        return number

    def _write_notes(self, caller: Caller, session: LoadedSession, name: str) -> int:
        sent = time.monotonic()
        number, outcome = self._call("WriteNotes", lambda: caller.write(session.id, name))
        session.run_numbers[name] = number
        if outcome == "ACCEPTED":
            received = time.monotonic()
            session.recorder.history.records.append(
                Write(session.id, "notes", [], sent, received, "acknowledged", number)
            )
        return number

    def _read(self, caller: Caller, rng: Random) -> None:
        """Make a read. It must show only this session, and every write that was acknowledged before."""
        session, kind = self._session(rng), rng.choice(("notes", "notes", "notes", "batch", "session", "runs", "list"))
        sent = time.monotonic()
        if kind == "notes":
            self._check_notes(session, sent, self._call("GetNotes", lambda: caller.notes(session.id)))
        elif kind == "batch":
            sessions = list(self.sessions)
            ids = [entry.id for entry in sessions]
            for entry, notes in zip(sessions, self._call("BatchGetNotes", lambda: caller.batch(ids)), strict=True):
                self._check_notes(entry, sent, notes)
        elif kind == "session":
            count, version, texts, fields = self._call("GetSession", lambda: caller.session(session.id))
            self.errors += [f"foreign: {name} in {session.id}" for name in texts + fields if not session.owns(name)]
            if (len(texts), len(fields)) != (count, version):
                parts = f"{len(texts)} turns of {count}, {len(fields)} fields at version {version}"
                self.errors.append(f"torn: {session.id} read with {parts}")
            session.recorder.sight("turn", sent, count)
            session.recorder.sight("field", sent, version)
        elif kind == "runs":
            for _, name, summary in self._call("ListRuns", lambda: caller.runs(session.id)):
                if not session.owns(name) or summary not in (None, "", name):
                    self.errors.append(f"foreign: run {name} with {summary} in {session.id}")
        else:
            listed = self._call("ListSessions", caller.sessions)
            self.errors += [f"foreign: session {name}" for name in listed if name not in self.session_ids]

    def _check_notes(self, session: LoadedSession, sent: float, notes: tuple[int, str] | None) -> None:
        number, summary = notes or (0, "")
        if notes and not session.owns(summary):
            self.errors.append(f"foreign: {summary} read in {session.id}")
        session.recorder.sight("notes", sent, number)

    def _delete(self, caller: Caller) -> None:
        """Create a session and delete it. It must stay deleted, even if a run in flight writes."""
        self._stopped.wait(0.1)
        session = LoadedSession()
        self.session_ids.add(session.id)
        in_flight, written = session.name("run"), session.name("run")
        self._call("AppendTurns", lambda: caller.append(session.id, [session.name("turn")]))
        self._call("UpdateSession", lambda: caller.set(session.id, session.name("field")))
        self._call("BeginRun", lambda: caller.begin(session.id, in_flight))
        self._call("WriteNotes", lambda: caller.write(session.id, written))
        # Every write was acknowledged. A deletion without a response is retried.
        for attempt in range(5):
            try:
                if not self._call("DeleteSession", lambda: caller.delete(session.id)) and attempt == 0:
                    self.errors.append(f"lost: session {session.id}, whose writes were all acknowledged")
                break
            except CallError:
                self._stopped.wait(0.3)
        else:
            return
        self.deleted.append(session.id)
        try:
            self._call("WriteNotes", lambda: caller.write(session.id, in_flight), grpc.StatusCode.FAILED_PRECONDITION)
            self.errors.append(f"deleted, yet a run in flight wrote to {session.id}")
        except CallError:
            pass
        if self._call("GetSession", lambda: caller.session(session.id))[2:] != ([], []):
            self.errors.append(f"deleted, yet read: {session.id}")

    def _submit(self, rng: Random) -> None:
        self._stopped.wait(0.1)
        if self._background is not None:
            self._background.submit(self._session(rng).id)

    def _observe(self, run: ActiveRun) -> Notes:
        foreign = [turn.text for turn in run.transcript if f":{run.session_id}:" not in turn.text]
        self.errors += [f"foreign: {text} in the background's transcript of {run.session_id}" for text in foreign]
        self._count("(background runs)", grpc.StatusCode.OK)
        return Notes(summary=f"{len(run.transcript)} turns")
