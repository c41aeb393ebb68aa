"""Histories of calls on one session, for porcupine and for the promises of `session-notes replay`."""

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import grpc
from session_notes.v1 import notes_pb2, session_notes_pb2
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.store.limits import HISTORY_RUNS
from session_notes_tools.replay.records import Outcome, SessionRecord, Sighting, Write, WriteKind

from tests.faults.recorder import UNKNOWN
from tests.stores import eventually
from tests.support import Refusal, SessionCalls

CLIENTS = 4
_STATES = (":RUNNING", ":WRITTEN", ":SUPERSEDED")

Reply = Mapping[str, Any]


@dataclass(frozen=True)
class Call:
    """A call, as check.go reads it.

    Attributes:
        client: The number of the client.
        sent: The time of the request in ns.
        received: The time of the response in ns.
        names: The unique names that it writes. A repeated call has the same.
        expected: The turn count or the version in the request, if any.
        reply: None if it was lost.
    """

    client: int
    sent: int
    received: int
    kind: str
    names: Sequence[str] = ()
    expected: int | None = None
    reply: Reply | None = None


History = Sequence[Call]


class Clients:
    """Clients that make random calls on a session, and record them.

    Args:
        channels: A connection for each client.
        session_id: The session.
        seed: The seed of their choices.
    """

    def __init__(self, channels: Sequence[grpc.Channel], session_id: str, seed: int) -> None:
        self.history: list[Call] = []
        self._sessions = [SessionCalls(channel, session_id) for channel in channels]
        self._seed = seed
        self._names, self._runs = itertools.count(1), itertools.count(1)
        self._stopped = threading.Event()

    def count(self, *, lost: bool) -> int:
        """Return the number of calls whose reply was lost, or was not."""
        return sum((call.reply is None) is lost for call in self.history)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Make calls until the block ends, then read everything once more.

        Lost writes that the last reads do not show are removed: they took effect later or never. porcupine would find
        the same, but only after a long search.
        """
        with ThreadPoolExecutor(len(self._sessions)) as pool:
            clients = [pool.submit(self._work, client) for client in range(len(self._sessions))]
            try:
                yield
            finally:
                self._stopped.set()
            for client in clients:
                client.result()
        for kind in ("get notes", "get session", "list runs"):
            eventually(lambda: self._call(0, kind) is not None)  # noqa: B023
        self.history = [call for call in self.history if call.reply or self._shown(call)]

    def _work(self, client: int) -> None:
        rng, runs = Random(f"{self._seed} {client}"), list[str]()
        seen = {"append": 0, "update": 0}
        while not self._stopped.is_set():
            kind = rng.choice(("append", "append", "update", "begin", "write", "get notes", "get session", "list runs"))
            names, expected = list[str](), None
            if kind in seen:
                names = [self._name(kind) for _ in range(rng.choice((1, 1, 3)) if kind == "append" else 1)]
                expected = rng.choice((None, seen[kind]))
            elif kind in ("begin", "write"):
                # ListRuns returns no more runs than this.
                if (kind == "begin" or rng.random() < 0.3) and next(self._runs) <= HISTORY_RUNS:
                    runs.append(self._name("run"))
                    names = runs[-1:]
                elif runs:
                    kind, names = "write", [rng.choice(runs)]
                else:
                    continue
            reply = self._call(client, kind, names, expected)
            if reply is None:
                self._stopped.wait(0.02)  # Like a real client. Threads that retry at once starve the sidecar.
            if reply is None and names:
                # The more replies are lost, the longer porcupine searches.
                while self._call(client, "get session") is None and not self._stopped.wait(0.05):
                    pass
                # A repeated update would be done twice, unless it expects a version.
                if rng.random() < 0.7 and (kind != "update" or expected is not None):
                    reply = self._call(client, kind, names, expected)
            if reply is not None and kind in seen:
                seen[kind] = reply["number"]

    def _shown(self, write: Call) -> bool:
        """Return whether the last reads show a write."""
        session, runs = (call.reply or {} for call in self.history[-2:])
        shown = f"{session['turns']} {session['fields']} {runs['runs']}".split()
        states = {"begin": _STATES, "write": _STATES[1:]}.get(write.kind, ("",))
        return any(f"{write.names[0]}{state}" in shown for state in states)

    def _name(self, kind: str) -> str:
        return f"{kind}:{next(self._names)}"

    def _call(self, client: int, kind: str, names: Sequence[str] = (), expected: int | None = None) -> Reply | None:
        """Make a call and record it. Return the reply, or None if it was lost. Lost reads are not recorded."""
        sent, reply = time.monotonic_ns(), None
        try:
            reply = _CALLS[kind](self._sessions[client], names, expected)
        except grpc.RpcError as error:
            refusal = Refusal()
            refusal.read(error)
            if refusal.code == grpc.StatusCode.ABORTED:
                reply = {"number": int(refusal.metadata["actual"]), "outcome": "MISMATCH"}
            elif refusal.code not in UNKNOWN:
                raise
        if names or reply:
            self.history.append(Call(client, sent, time.monotonic_ns(), kind, names, expected, reply))
        return reply


def _append(session: SessionCalls, names: Sequence[str], expected: int | None) -> Reply:
    turns = [Turn(text=name) for name in names]
    response = session.append(turns, names[0], timeout=2, expected_turn_count=expected)
    return {"number": response.turn_count, "outcome": "DUPLICATE" if response.duplicate else "OK"}


def _update(session: SessionCalls, names: Sequence[str], expected: int | None) -> Reply:
    response = session.update_session(timeout=2, set=dict(zip(names, names, strict=True)), expected_version=expected)
    return {"number": response.version, "outcome": "OK"}


def _begin(session: SessionCalls, names: Sequence[str], _: int | None) -> Reply:
    response = session.begin_run(names[0], timeout=2, include_transcript=True, include_current_notes=True)
    reading = _get_notes_reply(response.current)
    return {**reading, "turns": _text(turn.text for turn in response.transcript), "run": response.run.number}


def _write(session: SessionCalls, names: Sequence[str], _: int | None) -> Reply:
    response = session.write_notes(names[0], names[0], timeout=2)
    outcome = session_notes_pb2.WriteOutcome.Name(response.outcome).removeprefix("WRITE_OUTCOME_")
    return {"run": response.run.number, "outcome": outcome}


def _get_notes(session: SessionCalls, _: Sequence[str], __: int | None) -> Reply:
    return _get_notes_reply(session.get_notes(timeout=2))


def _get_notes_reply(response: session_notes_pb2.GetNotesResponse) -> Reply:
    behind = response.turns_behind if response.HasField("turns_behind") else -1
    return {"current": response.run.number, "latest": response.latest_run.number, "behind": behind}


def _get_session(session: SessionCalls, _: Sequence[str], __: int | None) -> Reply:
    response = session.get_session(timeout=2, include_turns=True)
    turns = _text(turn.text for turn in response.turns)
    return {"number": response.version, "turns": turns, "fields": _text(sorted(response.fields))}


def _list_runs(session: SessionCalls, _: Sequence[str], __: int | None) -> Reply:
    state = notes_pb2.RunState.Name
    runs = session.list_runs(timeout=2).runs
    return {"runs": _text(f"{run.run_id}:{state(run.state).removeprefix('RUN_STATE_')}" for run in runs)}


def _text(names: Iterable[str]) -> str:
    return " ".join(names)


_CALLS: Mapping[str, Callable[[SessionCalls, Sequence[str], int | None], Reply]] = {
    "append": _append,
    "update": _update,
    "begin": _begin,
    "write": _write,
    "get notes": _get_notes,
    "get session": _get_session,
    "list runs": _list_runs,
}

_KINDS: Mapping[str, WriteKind] = {"append": "turn", "update": "field", "begin": "run", "write": "run"}


def records(history: History, session_id: str) -> list[SessionRecord]:
    """Return a history as records for the promises of `session-notes replay`."""
    sightings, writes = list[SessionRecord](), dict[str, Write]()
    for call in sorted(history, key=lambda call: call.sent):
        reply = call.reply or {}
        if call.kind == "get notes":
            sightings.append(Sighting(session_id, "notes", call.sent, reply["current"]))
        elif call.kind == "get session":
            sightings.append(Sighting(session_id, "turn", call.sent, len(reply["turns"].split())))
            sightings.append(Sighting(session_id, "field", call.sent, reply["number"]))
        elif call.names:
            outcome: Outcome = "acknowledged" if reply else "unknown"
            number = reply.get("run", reply.get("number", 0))
            if reply.get("outcome") == "MISMATCH":
                outcome, number = "rejected", 0
            kind = _KINDS[call.kind]
            write = Write(session_id, kind, call.names, call.sent, call.received, outcome, number)
            first = writes.setdefault(call.names[0], write)
            # A repeated call is one write, which may have taken effect by the first call.
            if first.outcome == "unknown" and outcome == "acknowledged":
                writes[call.names[0]] = replace(write, sent=first.sent)
            if reply.get("outcome") == "ACCEPTED":
                sightings.append(replace(write, kind="notes", names=()))
    return [*writes.values(), *sightings]
