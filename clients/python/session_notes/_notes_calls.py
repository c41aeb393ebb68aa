"""Calls of the service SessionNotes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import timedelta

from session_notes import _decoding, _encoding
from session_notes._calls import Call, Page, builder, new_id
from session_notes._errors import RunInFlight
from session_notes._results import BeginResult, DueSession, Reading, RenewResult, Run, WriteResult
from session_notes._types import Notes, StaleReason, WriteOutcome
from session_notes.v1 import session_notes_pb2 as api

_SERVICE = "/session_notes.v1.SessionNotes/"


@builder
def get_notes(
    session_id: str,
    observer: str,
    max_age: timedelta | None,
    max_snapshot_age: timedelta | None,
    current_turn: int | None,
    max_turns_behind: int | None,
    unavailable_ok: bool,
) -> Call[Reading]:
    """Build SessionNotes.GetNotes. Not retried, because a primary needs an immediate answer more than a late one."""
    request = api.GetNotesRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        max_age=_encoding.duration("max_age", max_age),
        max_snapshot_age=_encoding.duration("max_snapshot_age", max_snapshot_age),
        current_turn=_encoding.count("current_turn", current_turn),
        max_turns_behind=_encoding.count("max_turns_behind", max_turns_behind),
    )

    def read(message: api.GetNotesResponse) -> Reading:
        reading = Reading.from_message(message, session_id=session_id, observer=observer)
        return _bounded(reading, max_snapshot_age)

    return Call(
        _SERVICE + "GetNotes",
        request,
        api.GetNotesResponse,
        read,
        fallback=(lambda error: Reading.unavailable(session_id, observer, str(error))) if unavailable_ok else None,
    )


@builder
def batch_get_notes(
    session_ids: Iterable[str],
    observer: str,
    max_age: timedelta | None,
    max_snapshot_age: timedelta | None,
    max_turns_behind: int | None,
    unavailable_ok: bool,
) -> Call[list[Reading]]:
    """Build SessionNotes.BatchGetNotes for several sessions. Not retried, like GetNotes."""
    observer = _encoding.text("observer", observer)
    keys = [(session_id, observer) for session_id in _encoding.texts("session_ids", session_ids)]
    call = _batch(keys, max_age, max_snapshot_age, None, max_turns_behind)
    if unavailable_ok:
        call.fallback = lambda error: [Reading.unavailable(*key, str(error)) for key in keys]
    return call


@builder
def notes_of_observers(
    session_id: str,
    observers: Iterable[str],
    max_age: timedelta | None,
    max_snapshot_age: timedelta | None,
    current_turn: int | None,
    max_turns_behind: int | None,
) -> Call[list[Reading]]:
    """Build SessionNotes.BatchGetNotes for several observers of one session."""
    session_id = _encoding.text("session_id", session_id)
    keys = [(session_id, observer) for observer in _encoding.texts("observers", observers)]
    return _batch(keys, max_age, max_snapshot_age, current_turn, max_turns_behind)


def _batch(
    keys: list[tuple[str, str]],
    max_age: timedelta | None,
    max_snapshot_age: timedelta | None,
    current_turn: int | None,
    max_turns_behind: int | None,
) -> Call[list[Reading]]:
    """Build SessionNotes.BatchGetNotes for pairs of session and observer."""
    common = api.GetNotesRequest(
        max_age=_encoding.duration("max_age", max_age),
        max_snapshot_age=_encoding.duration("max_snapshot_age", max_snapshot_age),
        current_turn=_encoding.count("current_turn", current_turn),
        max_turns_behind=_encoding.count("max_turns_behind", max_turns_behind),
    )
    batch = api.BatchGetNotesRequest()
    for session_id, observer in keys:
        entry = batch.requests.add(session_id=session_id, observer=observer)
        entry.MergeFrom(common)

    def read(message: api.BatchGetNotesResponse) -> list[Reading]:
        return [
            _bounded(Reading.from_message(response, session_id=session_id, observer=observer), max_snapshot_age)
            for (session_id, observer), response in zip(keys, message.responses, strict=True)
        ]

    return Call(_SERVICE + "BatchGetNotes", batch, api.BatchGetNotesResponse, read)


def _bounded(reading: Reading, max_snapshot_age: timedelta | None) -> Reading:
    """Return a reading that meets the bound on the snapshot's age, even if the sidecar is too old to know the bound."""
    if not reading.fresh or max_snapshot_age is None:
        return reading
    if reading.snapshot_age is None:
        return dataclasses.replace(reading, fresh=False, stale_because=(StaleReason.SNAPSHOT_UNKNOWN,))
    if reading.snapshot_age > max_snapshot_age:
        return dataclasses.replace(reading, fresh=False, stale_because=(StaleReason.SNAPSHOT_AGE,))
    return reading


@builder
def begin_run(
    session_id: str,
    observer: str,
    *,
    run_id: str | None,
    observed_turn: int | None,
    lease: timedelta | None,
    only_if_idle: bool,
    include_transcript: bool,
    after_turn: int | None,
    after_current_notes: bool,
    max_turns: int | None,
    include_current_notes: bool,
) -> Call[BeginResult]:
    """Build SessionNotes.BeginRun."""
    request = api.BeginRunRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        run_id=_encoding.text("run_id", run_id or new_id()),
        observed_turn=_encoding.count("observed_turn", observed_turn),
        lease=_encoding.duration("lease", lease),
        only_if_idle=_encoding.flag("only_if_idle", only_if_idle),
        include_transcript=_encoding.flag("include_transcript", include_transcript),
        after_turn=_encoding.count("after_turn", after_turn),
        after_current_notes=_encoding.flag("after_current_notes", after_current_notes),
        max_turns=_encoding.int32("max_turns", max_turns),
        include_current_notes=_encoding.flag("include_current_notes", include_current_notes),
    )

    def read(message: api.BeginRunResponse) -> BeginResult:
        run = Run.from_message(message.run)
        if not message.started:
            error = RunInFlight(f"run {run.number} is still in flight")
            error.run = run
            raise error
        return BeginResult(
            run,
            tuple(_decoding.turn(turn) for turn in message.transcript),
            _decoding.optional(message, "first_turn"),
            Reading.from_message(message.current, session_id=session_id, observer=observer)
            if message.HasField("current")
            else None,
        )

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
        run_id=_encoding.text("run_id", run_id or new_id()),
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
def renew_run(session_id: str, observer: str, run_id: str, lease: timedelta | None) -> Call[RenewResult]:
    """Build SessionNotes.RenewRun."""
    request = api.RenewRunRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        run_id=_encoding.text("run_id", run_id),
        lease=_encoding.duration("lease", lease),
    )

    def read(message: api.RenewRunResponse) -> RenewResult:
        turns_behind = _decoding.optional(message, "turns_behind")
        return RenewResult(Run.from_message(message.run), message.obsolete, turns_behind)

    return Call(_SERVICE + "RenewRun", request, api.RenewRunResponse, read, retryable=True)


@builder
def due_sessions(
    observer: str,
    min_turns_behind: int | None,
    min_interval: timedelta | None,
    min_quiet: timedelta | None,
    page_size: int,
    page_token: str,
) -> Call[Page[DueSession]]:
    """Build SessionNotes.ListDueSessions."""
    request = api.ListDueSessionsRequest(
        observer=_encoding.text("observer", observer),
        min_turns_behind=_encoding.count("min_turns_behind", min_turns_behind),
        min_interval=_encoding.duration("min_interval", min_interval),
        min_quiet=_encoding.duration("min_quiet", min_quiet),
        page_size=_encoding.int32("page_size", page_size),
        page_token=_encoding.text("page_token", page_token),
    )

    def read(message: api.ListDueSessionsResponse) -> Page[DueSession]:
        return [DueSession.from_message(session) for session in message.sessions], message.next_page_token

    return Call(_SERVICE + "ListDueSessions", request, api.ListDueSessionsResponse, read, retryable=True)


@builder
def list_runs(session_id: str, observer: str, include_notes: bool, page_size: int, page_token: str) -> Call[Page[Run]]:
    """Build SessionNotes.ListRuns."""
    request = api.ListRunsRequest(
        session_id=_encoding.text("session_id", session_id),
        observer=_encoding.text("observer", observer),
        page_size=_encoding.int32("page_size", page_size),
        page_token=_encoding.text("page_token", page_token),
        include_notes=_encoding.flag("include_notes", include_notes),
    )

    def read(message: api.ListRunsResponse) -> Page[Run]:
        return [Run.from_message(run) for run in message.runs], message.next_page_token

    return Call(_SERVICE + "ListRuns", request, api.ListRunsResponse, read, retryable=True)
