"""Each RPC as a value: what to send, how to read the answer, whether it may be sent again.

No I/O here, so that the blocking and the asyncio clients share all of it; how a call travels is in `_transport`.
"""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

from session_notes import _wire
from session_notes._errors import RunInFlight, Unavailable, refusal
from session_notes._types import (
    BeginResult,
    Notes,
    Reading,
    Run,
    Session,
    SessionSummary,
    Turn,
    UpdateResult,
    WriteOutcome,
    WriteResult,
)
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_state_pb2 as state_api

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

T = TypeVar("T")
P = ParamSpec("P")

Page: TypeAlias = tuple[list[T], str]
"""A page of a list, and the token of the next one; empty: it was the last."""

_NOTES = "/session_notes.v1.SessionNotes/"
_STATE = "/session_notes.v1.SessionState/"


class Call(Generic[T]):
    """One call, ready to be sent.

    Attributes:
        method: The RPC's full path.
        request: What to send.
        answer: The type of the message that comes back.
        read: Makes of it what the caller gets.
        repeatable: Whether sending it twice is as good as once, so that it can be tried again.
    """

    __slots__ = ("answer", "method", "read", "repeatable", "request")

    def __init__(
        self,
        method: str,
        request: "Message",
        answer: "type[Message]",
        read: Callable[[Any], T],
        *,
        repeatable: bool = False,
    ) -> None:
        self.method = method
        self.request = request
        self.answer = answer
        self.read = read
        self.repeatable = repeatable


def new_run_id() -> str:
    """An id that nobody else makes. Made here, not by the sidecar, so that every try of a call carries the same."""
    return os.urandom(16).hex()


def check_options(observer: str = "", **spans: timedelta) -> None:
    """Refuse options of a client that none of its calls could be made with.

    Raises:
        InvalidArgument: One of them is of another type.
    """
    try:
        _wire.text("observer", observer)
        for name, span in spans.items():
            _wire.timespan(name, span)
    except _wire.Unfit as error:
        raise refusal(error.argument, error.problem) from error


def _building(build: Callable[P, Call[T]]) -> Callable[P, Call[T]]:
    """Refuse a request that cannot be built with an InvalidArgument, as the sidecar would."""

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Call[T]:
        try:
            return build(*args, **kwargs)
        except _wire.Unfit as error:
            raise refusal(error.argument, error.problem, error.keys) from error

    return checked


@_building
def get_notes(
    session_id: str, observer: str, max_age: timedelta | None, current_turn: int | None, max_turns_behind: int | None
) -> Call[Reading]:
    """SessionNotes.GetNotes."""
    request = notes_api.GetNotesRequest(
        session_id=_wire.text("session_id", session_id),
        observer=_wire.text("observer", observer),
        max_age=_wire.duration("max_age", max_age),
        current_turn=_wire.count("current_turn", current_turn),
        max_turns_behind=_wire.count("max_turns_behind", max_turns_behind),
    )
    # Never tried again: to a primary, "nobody answers" is an answer, and better now than a deadline later.
    return Call(
        _NOTES + "GetNotes",
        request,
        notes_api.GetNotesResponse,
        functools.partial(_wire.reading_from, session_id, observer),
    )


@_building
def batch_get_notes(
    session_ids: Iterable[str], observer: str, max_age: timedelta | None, max_turns_behind: int | None
) -> Call[list[Reading]]:
    """SessionNotes.BatchGetNotes."""
    ids = _wire.names("session_ids", session_ids)
    common = notes_api.GetNotesRequest(
        observer=_wire.text("observer", observer),
        max_age=_wire.duration("max_age", max_age),
        max_turns_behind=_wire.count("max_turns_behind", max_turns_behind),
    )
    batch = notes_api.BatchGetNotesRequest()
    for session_id in ids:
        entry = batch.requests.add(session_id=session_id)
        entry.MergeFrom(common)

    def read(response: notes_api.BatchGetNotesResponse) -> list[Reading]:
        return [_wire.reading_from(one, observer, answer) for one, answer in zip(ids, response.responses, strict=True)]

    return Call(_NOTES + "BatchGetNotes", batch, notes_api.BatchGetNotesResponse, read)


def reading_instead(call: Call[Reading], error: Unavailable) -> Reading:
    """The reading that stands for an answer that did not come."""
    request: Any = call.request
    return _wire.unavailable_reading(request.session_id, request.observer, str(error))


def readings_instead(call: Call[list[Reading]], error: Unavailable) -> list[Reading]:
    """The readings that stand for an answer that did not come."""
    request: Any = call.request
    return [_wire.unavailable_reading(one.session_id, one.observer, str(error)) for one in request.requests]


@_building
def begin_run(
    session_id: str,
    observer: str,
    run_id: str,
    observed_turn: int | None,
    lease: timedelta | None,
    only_if_idle: bool,
    include_transcript: bool,
) -> Call[BeginResult]:
    """SessionNotes.BeginRun."""
    request = notes_api.BeginRunRequest(
        session_id=_wire.text("session_id", session_id),
        observer=_wire.text("observer", observer),
        run_id=_wire.text("run_id", run_id),
        observed_turn=_wire.count("observed_turn", observed_turn),
        lease=_wire.duration("lease", lease),
        only_if_idle=_wire.flag("only_if_idle", only_if_idle),
        include_transcript=_wire.flag("include_transcript", include_transcript),
    )
    return Call(_NOTES + "BeginRun", request, notes_api.BeginRunResponse, _begun, repeatable=True)


def _begun(response: notes_api.BeginRunResponse) -> BeginResult:
    run = _wire.run_from(response.run)
    if not response.started:
        refusal = RunInFlight(f"run {run.number} is still at work")
        refusal.run = run
        raise refusal
    return BeginResult(run, tuple(_wire.turn_from(turn) for turn in response.transcript))


@_building
def write_notes(
    session_id: str, observer: str, run_id: str, notes: Notes, observed_turn: int | None, ttl: timedelta | None
) -> Call[WriteResult]:
    """SessionNotes.WriteNotes."""
    request = notes_api.WriteNotesRequest(
        session_id=_wire.text("session_id", session_id),
        observer=_wire.text("observer", observer),
        run_id=_wire.text("run_id", run_id),
        notes=_wire.notes_message(notes),
        observed_turn=_wire.count("observed_turn", observed_turn),
        ttl=_wire.duration("ttl", ttl),
    )
    return Call(_NOTES + "WriteNotes", request, notes_api.WriteNotesResponse, _written, repeatable=True)


def _written(response: notes_api.WriteNotesResponse) -> WriteResult:
    outcome = _wire.enum(WriteOutcome, notes_api.WriteOutcome, "WRITE_OUTCOME_", response.outcome)
    return WriteResult(outcome, _wire.run_from(response.run), _wire.time_from(response.write_time))


@_building
def fail_run(session_id: str, observer: str, run_id: str, reason: str) -> Call[Run]:
    """SessionNotes.FailRun."""
    request = notes_api.FailRunRequest(
        session_id=_wire.text("session_id", session_id),
        observer=_wire.text("observer", observer),
        run_id=_wire.text("run_id", run_id),
        reason=_wire.text("reason", reason),
    )
    return Call(
        _NOTES + "FailRun", request, notes_api.FailRunResponse, lambda r: _wire.run_from(r.run), repeatable=True
    )


@_building
def list_runs(session_id: str, observer: str, include_notes: bool, page_size: int, page_token: str) -> Call[Page[Run]]:
    """SessionNotes.ListRuns."""
    request = notes_api.ListRunsRequest(
        session_id=_wire.text("session_id", session_id),
        observer=_wire.text("observer", observer),
        page_size=_wire.page_size(page_size),
        page_token=_wire.text("page_token", page_token),
        include_notes=_wire.flag("include_notes", include_notes),
    )

    def read(response: notes_api.ListRunsResponse) -> Page[Run]:
        return [_wire.run_from(run) for run in response.runs], response.next_page_token

    return Call(_NOTES + "ListRuns", request, notes_api.ListRunsResponse, read, repeatable=True)


@_building
def get_session(session_id: str, include_turns: bool) -> Call[Session]:
    """SessionState.GetSession."""
    request = state_api.GetSessionRequest(
        session_id=_wire.text("session_id", session_id), include_turns=_wire.flag("include_turns", include_turns)
    )
    return Call(
        _STATE + "GetSession",
        request,
        state_api.GetSessionResponse,
        lambda response: _wire.session_from(response.session),
        repeatable=True,
    )


@_building
def update_session(
    session_id: str,
    fields: Mapping[str, Any] | None,
    remove: Iterable[str],
    expected_version: int | None,
    ttl: timedelta | None,
) -> Call[UpdateResult]:
    """SessionState.UpdateSession."""
    request = state_api.UpdateSessionRequest(
        session_id=_wire.text("session_id", session_id),
        set=_wire.fields("set", {} if fields is None else fields),
        remove=_wire.names("remove", remove),
        expected_version=_wire.count("expected_version", expected_version),
        ttl=_wire.duration("ttl", ttl),
    )

    def read(response: state_api.UpdateSessionResponse) -> UpdateResult:
        return UpdateResult(response.version, _wire.time_from(response.update_time))

    return Call(_STATE + "UpdateSession", request, state_api.UpdateSessionResponse, read)


@_building
def append_turns(session_id: str, turns: Iterable[Turn], expected_turn_count: int | None) -> Call[int]:
    """SessionState.AppendTurns."""
    request = state_api.AppendTurnsRequest(
        session_id=_wire.text("session_id", session_id),
        turns=_wire.turn_messages(turns),
        expected_turn_count=_wire.count("expected_turn_count", expected_turn_count),
    )
    return Call(_STATE + "AppendTurns", request, state_api.AppendTurnsResponse, lambda response: response.turn_count)


@_building
def delete_session(session_id: str) -> Call[bool]:
    """SessionState.DeleteSession."""
    request = state_api.DeleteSessionRequest(session_id=_wire.text("session_id", session_id))
    # Harmless to repeat, but the second try would answer that there was nothing to delete.
    return Call(_STATE + "DeleteSession", request, state_api.DeleteSessionResponse, lambda response: response.existed)


@_building
def list_sessions(page_size: int, page_token: str) -> Call[Page[SessionSummary]]:
    """SessionState.ListSessions."""
    request = state_api.ListSessionsRequest(
        page_size=_wire.page_size(page_size), page_token=_wire.text("page_token", page_token)
    )

    def read(response: state_api.ListSessionsResponse) -> Page[SessionSummary]:
        return [_wire.summary_from(one) for one in response.sessions], response.next_page_token

    return Call(_STATE + "ListSessions", request, state_api.ListSessionsResponse, read, repeatable=True)


@functools.cache
def _methods() -> "Mapping[str, MethodDescriptor]":
    """Return the contract's methods by the full name of their request message; no two methods share one."""
    return {
        method.input_type.full_name: method
        for api in (notes_api, state_api)
        for service in api.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def raw(request: "Message") -> Call[Any]:
    """Return the call that a request message is meant for; its response comes back as it is.

    Raises:
        InvalidArgument: It is not a request message of the contract.
    """
    from google.protobuf.message_factory import GetMessageClass  # only for those who make such calls

    method = _methods().get(getattr(getattr(request, "DESCRIPTOR", None), "full_name", ""))
    if method is None:
        raise refusal("request", f"must be a request message of session_notes.v1, not {type(request).__name__}")
    path = f"/{method.containing_service.full_name}/{method.name}"
    return Call(path, request, GetMessageClass(method.output_type), lambda response: response)
