"""The calls of the soak's load, through the generated stubs and through the Python clients."""

import time
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

import grpc
from session_notes import Notes, ObserverClient, PrimaryClient, RunState, Turn, WriteOutcome
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_notes_pb2_grpc, session_state_pb2_grpc
from session_notes.v1 import session_state_pb2 as state_api
from session_notes.v1.notes_pb2 import RUN_STATE_WRITTEN
from session_notes.v1.notes_pb2 import Notes as NotesMessage
from session_notes.v1.turn_pb2 import Turn as TurnMessage

from tests.support import value


class Caller(Protocol):
    """An interface to every call, with results as plain values."""

    def append(self, session_id: str, texts: Sequence[str]) -> int: ...
    def set(self, session_id: str, name: str) -> int: ...
    def begin(self, session_id: str, run_id: str) -> tuple[int, list[str]]: ...
    def write(self, session_id: str, run_id: str) -> tuple[int, str]: ...
    def fail(self, session_id: str, run_id: str) -> int: ...
    def renew(self, session_id: str, run_id: str) -> int: ...
    def notes(self, session_id: str) -> tuple[int, str] | None: ...
    def batch(self, session_ids: Sequence[str]) -> list[tuple[int, str] | None]: ...
    def runs(self, session_id: str) -> list[tuple[int, str, str | None]]: ...
    def session(self, session_id: str) -> tuple[int, int, list[str], list[str]]: ...
    def sessions(self) -> list[str]: ...
    def delete(self, session_id: str) -> bool: ...


class StubCaller:
    """Calls through the generated stubs.

    Args:
        channel: The connection.
        haste: Draws deadlines of a few milliseconds, and calls to cancel. None: the deadline is 2 s, and no call is
            cancelled.
    """

    def __init__(self, channel: grpc.Channel, haste: Random | None = None) -> None:
        self._notes = session_notes_pb2_grpc.SessionNotesStub(channel)
        self._state = session_state_pb2_grpc.SessionStateStub(channel)
        self._haste = haste

    def _call(self, method: Any, request: Any) -> Any:
        if self._haste is None:
            return method(request, timeout=2)
        call = method.future(request, timeout=self._haste.uniform(0.001, 0.06))
        if self._haste.random() < 0.3:
            time.sleep(self._haste.uniform(0, 0.01))
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
        request = notes_api.FailRunRequest(session_id=session_id, run_id=run_id, reason="a failure")
        return int(self._call(self._notes.FailRun, request).run.number)

    def renew(self, session_id: str, run_id: str) -> int:
        request = notes_api.RenewRunRequest(session_id=session_id, run_id=run_id)
        return int(self._call(self._notes.RenewRun, request).run.number)

    def notes(self, session_id: str) -> tuple[int, str] | None:
        return current_notes(self._call(self._notes.GetNotes, notes_api.GetNotesRequest(session_id=session_id)))

    def batch(self, session_ids: Sequence[str]) -> list[tuple[int, str] | None]:
        requests = [notes_api.GetNotesRequest(session_id=session_id) for session_id in session_ids]
        response = self._call(self._notes.BatchGetNotes, notes_api.BatchGetNotesRequest(requests=requests))
        return [current_notes(reading) for reading in response.responses]

    def runs(self, session_id: str) -> list[tuple[int, str, str | None]]:
        rows: list[tuple[int, str, str | None]] = []
        token = ""
        while True:
            request = notes_api.ListRunsRequest(
                session_id=session_id, include_notes=True, page_size=7, page_token=token
            )
            response = self._call(self._notes.ListRuns, request)
            rows += [
                (run.number, run.run_id, run.notes.summary if run.state == RUN_STATE_WRITTEN else None)
                for run in response.runs
            ]
            if not (token := response.next_page_token):
                return rows

    def session(self, session_id: str) -> tuple[int, int, list[str], list[str]]:
        request = state_api.GetSessionRequest(session_id=session_id, include_turns=True)
        session = self._call(self._state.GetSession, request).session
        return session.turn_count, session.version, [turn.text for turn in session.turns], sorted(session.fields)

    def sessions(self) -> list[str]:
        ids: list[str] = []
        token = ""
        while True:
            request = state_api.ListSessionsRequest(page_size=50, page_token=token)
            response = self._call(self._state.ListSessions, request)
            ids += [summary.session_id for summary in response.sessions]
            if not (token := response.next_page_token):
                return ids

    def delete(self, session_id: str) -> bool:
        request = state_api.DeleteSessionRequest(session_id=session_id)
        return bool(self._call(self._state.DeleteSession, request).existed)


def current_notes(response: notes_api.GetNotesResponse) -> tuple[int, str] | None:
    """Return the run number and the summary of ready notes."""
    return (response.run.number, response.notes.summary) if response.ready else None


class ClientCaller:
    """Calls through PrimaryClient and ObserverClient, with their own deadlines and retries."""

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
        return self._observer.fail_run(session_id, run_id, "a failure").number

    def renew(self, session_id: str, run_id: str) -> int:
        return self._observer.renew_run(session_id, run_id).run.number

    def notes(self, session_id: str) -> tuple[int, str] | None:
        reading = self._primary.get_notes(session_id)
        return (reading.run.number, reading.notes.summary) if reading.run and reading.notes else None

    def batch(self, session_ids: Sequence[str]) -> list[tuple[int, str] | None]:
        return [
            (reading.run.number, reading.notes.summary) if reading.run and reading.notes else None
            for reading in self._primary.batch_get_notes(session_ids)
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
