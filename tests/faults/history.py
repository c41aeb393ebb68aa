"""What clients did to one session, and whether what is there afterwards can have come of it.

Each operation is recorded with the time it began, the time it ended, and how: `ok`, `failed` (surely not done) or
`unknown` (no answer, or UNAVAILABLE: done once or not at all). The model is the session as the contract has it: turns
in a row, named fields, runs with numbers.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import grpc
import session_notes
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import Refusal, SessionCalls

Kind = Literal["turn", "field", "run"]
Outcome = Literal["ok", "failed", "unknown"]

KINDS: tuple[Kind, ...] = ("turn", "field", "run")
UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

CallError = (grpc.RpcError, grpc.FutureCancelledError, session_notes.SessionNotesError)
"""How a call can fail: by gRPC's own stubs, or by the clients we ship."""

# What stands behind an error of the shipped clients, subclasses first. A ServerError says it in its text.
_STANDS_FOR = {
    session_notes.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    session_notes.Unavailable: grpc.StatusCode.UNAVAILABLE,
    session_notes.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    session_notes.SessionDeleted: grpc.StatusCode.FAILED_PRECONDITION,
}


def told(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """A CallError's status, and all that it tells."""
    if isinstance(error, grpc.RpcError):
        refusal = Refusal()
        refusal.read(error)
        return refusal.code, refusal.text
    if isinstance(error, grpc.FutureCancelledError):
        return grpc.StatusCode.CANCELLED, ""
    for kind, code in _STANDS_FOR.items():
        if isinstance(error, kind):
            return code, str(error)
    name = str(error).partition(":")[0]
    return getattr(grpc.StatusCode, name, grpc.StatusCode.UNKNOWN), f"{type(error).__name__}: {error}"


@dataclass(frozen=True)
class Operation:
    """One call, and how it ended. `name` is what it wrote, and nobody else writes; `number` what it was answered."""

    kind: Kind
    name: str
    began: float
    ended: float
    outcome: Outcome
    number: int = 0


@dataclass
class Final:
    """What is there afterwards, read past the sidecar."""

    turns: list[str]
    turn_count: int
    fields: list[str]
    version: int
    runs: dict[str, int]

    @classmethod
    def of(cls, store: Store, session_id: str, observer: str = "default") -> "Final":
        """Reads it."""
        session = store.client.hgetall(store.key(session_id))
        index = f"{observer} "
        runs = {
            name.decode(): int(number)
            for name, number in store.client.hgetall(store.key(session_id, "ids")).items()
            if name.startswith(index.encode())
        }
        return cls(
            turns=[Turn.FromString(one).text for one in store.client.lrange(store.key(session_id, "turns"), 0, -1)],
            turn_count=int(session.get(b"turns", 0)),
            fields=[name[2:].decode() for name in session if name.startswith(b"f:")],
            version=int(session.get(b"version", 0)),
            runs={name.removeprefix(index): number for name, number in runs.items()},
        )


@dataclass
class History:
    """All operations of all clients on one session. Bounded, so that nothing is trimmed: see `full`."""

    operations: list[Operation] = field(default_factory=list)
    of_a_kind: Counter[Kind] = field(default_factory=Counter)
    statuses: Counter[grpc.StatusCode] = field(default_factory=Counter)
    texts: set[str] = field(default_factory=set)
    """What callers were told in errors."""
    limit: int = 900
    together: list[Sequence[str]] = field(default_factory=list)
    """Names that one call wrote: all of them are there, in a row, or none."""

    @property
    def full(self) -> bool:
        """Whether there would soon be more of a kind than a session keeps (2,000 turns, 1,000 runs)."""
        return any(count >= self.limit for count in self.of_a_kind.values())

    def count(self, outcome: Outcome) -> int:
        """How many operations ended so."""
        return sum(one.outcome == outcome for one in list(self.operations))

    def call(self, kind: Kind, name: str, call: Callable[[], int]) -> Outcome:
        """Makes a call that writes `name`, and records how it ended."""
        return self.call_many(kind, [name], call)

    def call_many(self, kind: Kind, names: Sequence[str], call: Callable[[], int]) -> Outcome:
        """As `call`, of one that writes several names in one step, and is answered the number of the last."""
        began, number = time.monotonic(), 0
        outcome: Outcome
        try:
            number, outcome, code = call(), "ok", grpc.StatusCode.OK
        except CallError as error:
            code, text = told(error)
            # The shipped clients try again: that the last try was refused does not say what became of the first.
            sure = code not in UNKNOWN and not isinstance(error, session_notes.SessionNotesError)
            outcome = "failed" if sure else "unknown"
            self.texts.add(text)
        ended = time.monotonic()
        self.statuses[code] += 1
        for before, name in enumerate(reversed(names)):
            self.operations.append(Operation(kind, name, began, ended, outcome, number - before))
        self.of_a_kind[kind] += len(names)
        if len(names) > 1:
            self.together.append(names)
        return outcome

    def faults(self, final: Final) -> list[str]:
        """What in `final` cannot have come of these operations. Empty: all is well."""
        found: list[str] = []
        there = {"turn": final.turns, "field": final.fields, "run": list(final.runs)}
        for kind in KINDS:
            own = [one for one in self.operations if one.kind == kind]
            times = Counter(there[kind])
            found += [f"lost: {kind} {one.name}" for one in own if one.outcome == "ok" and not times[one.name]]
            found += [
                f"refused, yet there: {kind} {one.name}" for one in own if one.outcome == "failed" and times[one.name]
            ]
            found += [f"{number} times: {kind} {name}" for name, number in times.items() if number > 1]
            found += [f"foreign: {kind} {name}" for name in times.keys() - {one.name for one in own}]
        if len(final.turns) != final.turn_count:
            found.append(f"{len(final.turns)} turns, counted as {final.turn_count}")
        if len(final.fields) != final.version:
            found.append(f"{len(final.fields)} fields, each set once, at version {final.version}")
        if sorted(final.runs.values()) != list(range(1, len(final.runs) + 1)):
            found.append(f"run numbers with a gap or a repeat: {sorted(final.runs.values())}")
        places = {name: place for place, name in enumerate(final.turns, 1)}
        for names in self.together:
            rows = [places.get(name, 0) for name in names]
            if any(rows) and rows != list(range(rows[0], rows[0] + len(names))):
                found.append(f"torn: turns {names} at {rows}")
        found += self._disorder("turn", places) + self._disorder("run", final.runs)
        versions = {one.name: one.number for one in self.operations if one.kind == "field" and one.outcome == "ok"}
        return found + self._disorder("field", versions)

    def _disorder(self, kind: Kind, numbers: dict[str, int]) -> list[str]:
        """Answers that name another number than the store; and what ended before another began, yet comes after it."""
        own = [one for one in self.operations if one.kind == kind and one.outcome == "ok" and one.name in numbers]
        found = [
            f"answered {one.number}, is {numbers[one.name]}: {kind} {one.name}"
            for one in own
            if one.number != numbers[one.name]
        ]
        latest_begin = 0.0
        for one in sorted(own, key=lambda one: numbers[one.name]):
            if one.ended < latest_begin:
                found.append(f"out of order: {kind} {one.name}")
            latest_begin = max(latest_begin, one.began)
        return found


def write(session: SessionCalls, kind: Kind, name: str, timeout: float = 5) -> int:
    """Writes something → the number it was given: the turn count, the version, the run's number."""
    if kind == "turn":
        return session.append_turns([Turn(text=name)], timeout=timeout)
    if kind == "field":
        return session.update_session(set={name: name}, timeout=timeout).version
    return session.write_notes(name, name, timeout=timeout).run.number


@contextmanager
def storm(
    sessions: Sequence[SessionCalls], history: History, writers: int = 6, kinds: Iterable[Kind] = KINDS
) -> Iterator[History]:
    """Writes of these kinds from many threads until the block ends or the history is full; `sessions` are one session,
    over one connection or several."""
    stopped, numbers, order = threading.Event(), itertools.count(len(history.operations)), list(kinds)

    def work(index: int) -> None:
        session = sessions[index % len(sessions)]
        while not (stopped.is_set() or history.full):
            number = next(numbers)
            kind = order[(index + number) % len(order)]
            name = f"{session.id}-{number}-{index}"
            if history.call(kind, name, lambda: write(session, kind, name)) != "ok":  # noqa: B023
                stopped.wait(0.02)  # As a client would; threads that ask again at once leave nothing for the sidecar.

    with ThreadPoolExecutor(writers) as pool:
        running = [pool.submit(work, index) for index in range(writers)]
        try:
            yield history
        finally:
            stopped.set()
        for one in running:
            one.result()
