"""Calls of the service SessionState."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, NamedTuple

from session_notes import _decoding, _encoding
from session_notes._calls import Call, Page, builder, new_id
from session_notes._results import Session, SessionSummary, UpdateResult
from session_notes._types import Turn
from session_notes.v1 import session_state_pb2 as api

_SERVICE = "/session_notes.v1.SessionState/"


@builder
def get_session(session_id: str, include_turns: bool) -> Call[Session]:
    """Build SessionState.GetSession."""
    request = api.GetSessionRequest(
        session_id=_encoding.text("session_id", session_id),
        include_turns=_encoding.flag("include_turns", include_turns),
    )
    return Call(
        _SERVICE + "GetSession",
        request,
        api.GetSessionResponse,
        lambda message: Session.from_message(message.session),
        retryable=True,
    )


@builder
def update_session(
    session_id: str,
    fields: Mapping[str, Any] | None,
    remove: Iterable[str],
    expected_version: int | None,
    ttl: timedelta | None,
) -> Call[UpdateResult]:
    """Build SessionState.UpdateSession. Not retried, because the client cannot know whether it took effect."""
    request = api.UpdateSessionRequest(
        session_id=_encoding.text("session_id", session_id),
        set=_encoding.json_fields("set", {} if fields is None else fields),
        remove=_encoding.texts("remove", remove),
        expected_version=_encoding.count("expected_version", expected_version),
        ttl=_encoding.duration("ttl", ttl),
    )

    def read(message: api.UpdateSessionResponse) -> UpdateResult:
        return UpdateResult(message.version, _decoding.time(message.update_time))

    return Call(_SERVICE + "UpdateSession", request, api.UpdateSessionResponse, read)


class Appended(NamedTuple):
    """Result of AppendTurns: the turn count, and whether the turns had been appended before. None: an old sidecar."""

    turn_count: int
    duplicate: bool | None


@builder
def append_turns(
    session_id: str, turns: Iterable[Turn], expected_turn_count: int | None, append_id: str | None
) -> Call[Appended]:
    """Build SessionState.AppendTurns. It has an id, but a sidecar of the contract's first version ignores the id."""
    request = api.AppendTurnsRequest(
        session_id=_encoding.text("session_id", session_id),
        turns=_encoding.turn_messages(turns),
        expected_turn_count=_encoding.count("expected_turn_count", expected_turn_count),
        append_id=_encoding.text("append_id", append_id or new_id()),
    )

    def read(message: api.AppendTurnsResponse) -> Appended:
        return Appended(message.turn_count, message.duplicate if message.HasField("duplicate") else None)

    return Call(_SERVICE + "AppendTurns", request, api.AppendTurnsResponse, read)


@builder
def delete_session(session_id: str) -> Call[bool]:
    """Build SessionState.DeleteSession. Not retried: after a lost response, a retry would return False."""
    request = api.DeleteSessionRequest(session_id=_encoding.text("session_id", session_id))
    return Call(_SERVICE + "DeleteSession", request, api.DeleteSessionResponse, lambda message: message.existed)


@builder
def list_sessions(page_size: int, page_token: str) -> Call[Page[SessionSummary]]:
    """Build SessionState.ListSessions."""
    request = api.ListSessionsRequest(
        page_size=_encoding.int32("page_size", page_size), page_token=_encoding.text("page_token", page_token)
    )

    def read(message: api.ListSessionsResponse) -> Page[SessionSummary]:
        return [SessionSummary.from_message(session) for session in message.sessions], message.next_page_token

    return Call(_SERVICE + "ListSessions", request, api.ListSessionsResponse, read, retryable=True)
