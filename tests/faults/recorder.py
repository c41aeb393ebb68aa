"""A recorder of the writes to one session, which checks them against the promises of `session-notes replay`."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc
import session_notes
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.store.limits import REMEMBERED_RUNS
from session_notes_tools.replay.history import ListedRun, ReadBack, SessionHistory
from session_notes_tools.replay.records import Outcome, Repeat, Sighting, Write, WriteKind
from session_notes_tools.replay.verdicts import broken_promises

from tests.stores import Store
from tests.support import Refusal

UNKNOWN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

CallError = (grpc.RpcError, grpc.FutureCancelledError, session_notes.SessionNotesError)
"""The errors of a call, by gRPC's own stubs or by the Python clients."""

# The status behind an error of the Python clients, subclasses first. The text of a ServerError begins with it.
_STATUSES = {
    session_notes.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    session_notes.Unavailable: grpc.StatusCode.UNAVAILABLE,
    session_notes.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    session_notes.SessionDeleted: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_and_text(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Return the status of a CallError, and its full text."""
    if isinstance(error, grpc.RpcError):
        refusal = Refusal()
        refusal.read(error)
        return refusal.code, refusal.text
    if isinstance(error, grpc.FutureCancelledError):
        return grpc.StatusCode.CANCELLED, ""
    for kind, code in _STATUSES.items():
        if isinstance(error, kind):
            return code, str(error)
    name = str(error).partition(":")[0]
    return getattr(grpc.StatusCode, name, grpc.StatusCode.UNKNOWN), f"{type(error).__name__}: {error}"


class Recorder:
    """The history of one session under concurrent writes. Thread-safe.

    Args:
        session_id: The session.
        limit: The number of names of a kind at which the recorder is `full`. The default is below what a session keeps
            (2,000 turns, 1,000 runs), so that nothing is trimmed.
    """

    def __init__(self, session_id: str, limit: int = 900) -> None:
        self.history = SessionHistory(session_id)
        self.statuses = Counter[grpc.StatusCode]()
        self.error_texts = set[str]()
        self._limit = limit
        self._names = Counter[WriteKind]()

    @property
    def full(self) -> bool:
        """Whether the session has enough writes."""
        return any(count >= self._limit for count in self._names.values())

    def count(self, outcome: Outcome) -> int:
        """Return the number of names written with an outcome."""
        return sum(len(write.names) for write in self.history.of(Write) if write.outcome == outcome)

    def record(self, kind: WriteKind, names: Sequence[str], call: Callable[[], int]) -> int:
        """Make a call that writes unique names in one step, record it, and return its number; 0 unless acknowledged.

        Args:
            kind: The kind of write.
            names: The names that it writes, in order.
            call: Makes the call, and returns the number of the last name.
        """
        sent, number = time.monotonic(), 0
        outcome: Outcome
        try:
            number, outcome, code = call(), "acknowledged", grpc.StatusCode.OK
        except CallError as error:
            code, text = status_and_text(error)
            # The Python clients retry. Even if the last attempt was rejected, an earlier one may have taken effect.
            certain = code not in UNKNOWN and not isinstance(error, session_notes.SessionNotesError)
            outcome = "rejected" if certain else "unknown"
            self.error_texts.add(text)
        self.statuses[code] += 1
        session_id, received = self.history.session_id, time.monotonic()
        self.history.records.append(Write(session_id, kind, names, sent, received, outcome, number))
        self._names[kind] += len(names)
        return number

    def repeat_appends(self, append: Callable[[str], int], count: int = 20) -> None:
        """Repeat the newest appends of one turn under their ids, and record what they return.

        After that, none is unknown: it took effect by its first call, or does by this one.

        Args:
            append: Appends a turn under its id, and returns the turn count.
            count: The number of appends.
        """
        records = self.history.records
        appends = [record for record in records if isinstance(record, Write) and record.kind == "turn"]
        for write in appends[-count:]:
            (name,) = write.names
            number = append(name)
            if write.outcome == "acknowledged":
                records.append(Repeat(self.history.session_id, name, number))
            else:
                later = replace(write, outcome="acknowledged", received=time.monotonic(), number=number)
                records[records.index(write)] = later

    def sight(self, kind: WriteKind, sent: float, number: int) -> None:
        """Record the number that a read showed, and the time at which the read was sent."""
        self.history.records.append(Sighting(self.history.session_id, kind, sent, number))

    def problems(self, store: Store) -> list[str]:
        """Return the broken promises, given the session's state in the store."""
        return broken_promises(replace(self.history, read_back=read_back(store, self.history.session_id)))


def read_back(store: Store, session_id: str, observer: str = "default") -> ReadBack:
    """Read a session from the store, bypassing the sidecar."""
    session = store.client.hgetall(store.key(session_id))
    prefix = f"{observer} "
    numbers = {
        name.decode().removeprefix(prefix): int(number)
        for name, number in store.client.hgetall(store.key(session_id, "ids")).items()
        if name.startswith(prefix.encode())
    }
    stored = [Turn.FromString(turn) for turn in store.client.lrange(store.key(session_id, "turns"), 0, -1)]
    return ReadBack(
        fields={name[2:].decode(): value for name, value in session.items() if name.startswith(b"f:")},
        version=int(session.get(b"version", 0)),
        turn_count=int(session.get(b"turns", 0)),
        turns=[[turn.speaker, turn.text, {}] for turn in stored],
        runs=[ListedRun(name, numbers[name]) for name in sorted(numbers, key=numbers.__getitem__, reverse=True)],
        runs_limit=REMEMBERED_RUNS,
    )
