"""Calls of the service SessionNotes."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from datetime import timedelta

from session_notes import _decoding, _encoding
from session_notes._calls import Call, Page, builder, new_run_id
from session_notes._errors import RunInFlight, Unavailable
from session_notes._results import BeginResult, Reading, Run, WriteResult
from session_notes._types import Notes, WriteOutcome
from session_notes.v1 import session_notes_pb2 as api

_SERVICE = "/session_notes.v1.SessionNotes/"


@builder
def get_notes(
    session_id: str,
    observer: str,
    max_age: timedelta | None,
    current_turn: int | None,
    max_turns_behind: int | None,
    unavailable_ok: bool,
) -> Call[Reading]:
    """Build SessionNotes.GetNotes. Not retried, because a primary needs an immediate answer more than a late one."""
    request = api.GetNotesRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        max_age=_encoding.duration("max_age", max_age),
        current_turn=_encoding.count("current_turn", current_turn),
        max_turns_behind=_encoding.count("max_turns_behind", max_turns_behind),
    )
    return Call(
        _SERVICE + "GetNotes",
        request,
        api.GetNotesResponse,
        functools.partial(Reading.from_message, session_id=session_id, observer=observer),
        fallback=(lambda error: Reading.unavailable(session_id, observer, str(error))) if unavailable_ok else None,
    )


@builder
def batch_get_notes(
    session_ids: Iterable[str],
    observer: str,
    max_age: timedelta | None,
    max_turns_behind: int | None,
    unavailable_ok: bool,
) -> Call[list[Reading]]:
    """Build SessionNotes.BatchGetNotes. Not retried, like GetNotes."""
    ids = _encoding.texts("session_ids", session_ids)
    common = api.GetNotesRequest(
        observer=_encoding.text("observer", observer),
        max_age=_encoding.duration("max_age", max_age),
        max_turns_behind=_encoding.count("max_turns_behind", max_turns_behind),
    )
    batch = api.BatchGetNotesRequest()
    for session_id in ids:
        entry = batch.requests.add(session_id=session_id)
        entry.MergeFrom(common)

    def read(message: api.BatchGetNotesResponse) -> list[Reading]:
        return [
            Reading.from_message(response, session_id=session_id, observer=observer)
            for session_id, response in zip(ids, message.responses, strict=True)
        ]

    def unavailable(error: Unavailable) -> list[Reading]:
        return [Reading.unavailable(session_id, observer, str(error)) for session_id in ids]

    return Call(
        _SERVICE + "BatchGetNotes",
        batch,
        api.BatchGetNotesResponse,
        read,
        fallback=unavailable if unavailable_ok else None,
    )


@builder
def begin_run(
    session_id: str,
    observer: str,
    run_id: str | None,
    observed_turn: int | None,
    lease: timedelta | None,
    only_if_idle: bool,
    include_transcript: bool,
) -> Call[BeginResult]:
    """Build SessionNotes.BeginRun."""
    request = api.BeginRunRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        run_id=_encoding.text("run_id", run_id or new_run_id()),
        observed_turn=_encoding.count("observed_turn", observed_turn),
        lease=_encoding.duration("lease", lease),
        only_if_idle=_encoding.flag("only_if_idle", only_if_idle),
        include_transcript=_encoding.flag("include_transcript", include_transcript),
    )

    def read(message: api.BeginRunResponse) -> BeginResult:
        run = Run.from_message(message.run)
        if not message.started:
            error = RunInFlight(f"run {run.number} is still in flight")
            error.run = run
            raise error
        return BeginResult(run, tuple(_decoding.turn(turn) for turn in message.transcript))

    return Call(_SERVICE + "BeginRun", request, api.BeginRunResponse, read, retryable=True)


@builder
def write_notes(
    session_id: str,
    observer: str,
    run_id: str | None,
    notes: Notes,
    observed_turn: int | None,
    ttl: timedelta | None,
) -> Call[WriteResult]:
    """Build SessionNotes.WriteNotes."""
    request = api.WriteNotesRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        run_id=_encoding.text("run_id", run_id or new_run_id()),
        notes=_encoding.notes_message(notes),
        observed_turn=_encoding.count("observed_turn", observed_turn),
        ttl=_encoding.duration("ttl", ttl),
    )

    def read(message: api.WriteNotesResponse) -> WriteResult:
        outcome = _decoding.enum(WriteOutcome, api.WriteOutcome, "WRITE_OUTCOME_", message.outcome)
        return WriteResult(outcome, Run.from_message(message.run), _decoding.time(message.write_time))

    return Call(_SERVICE + "WriteNotes", request, api.WriteNotesResponse, read, retryable=True)


@builder
def fail_run(session_id: str, observer: str, run_id: str, reason: str) -> Call[Run]:
    """Build SessionNotes.FailRun."""
    request = api.FailRunRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        run_id=_encoding.text("run_id", run_id),
        reason=_encoding.text("reason", reason),
    )
    return Call(
        _SERVICE + "FailRun",
        request,
        api.FailRunResponse,
        lambda message: Run.from_message(message.run),
        retryable=True,
    )


@builder
def list_runs(session_id: str, observer: str, include_notes: bool, page_size: int, page_token: str) -> Call[Page[Run]]:
    """Build SessionNotes.ListRuns."""
    request = api.ListRunsRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        page_size=_encoding.page_size(page_size),
        page_token=_encoding.text("page_token", page_token),
        include_notes=_encoding.flag("include_notes", include_notes),
    )

    def read(message: api.ListRunsResponse) -> Page[Run]:
        return [Run.from_message(run) for run in message.runs], message.next_page_token

    return Call(_SERVICE + "ListRuns", request, api.ListRunsResponse, read, retryable=True)
