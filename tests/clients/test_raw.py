"""Raw calls with the messages of the contract, and channels with the options of the clients."""

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from session_notes import (
    TLS,
    AsyncRawClient,
    Endpoint,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    RawClient,
    Reading,
    Run,
    Session,
    SessionNotesError,
    SessionSummary,
    Unavailable,
    UsageError,
)
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, ListRunsRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub
from session_notes.v1.session_state_pb2 import GetSessionRequest, ListSessionsRequest

from tests.support import Sidecar


def test_a_batch_over_several_observers(sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
    """One call reads the notes of two observers, and its messages convert to the readings of `get_notes`."""
    names = ("coach", "critic")
    for name in names:
        with ObserverClient(sidecar.target, observer=name) as observer:
            observer.write_notes(session_id, Notes(summary=name))
    with RawClient(sidecar.target) as raw:
        assert raw.target == sidecar.target
        batch = raw.call(
            BatchGetNotesRequest(requests=[GetNotesRequest(session_id=session_id, observer=name) for name in names])
        )
    for name, response in zip(names, batch.responses, strict=True):
        reading = Reading.from_message(response, session_id=session_id, observer=name)
        expected = primary.get_notes(session_id, observer=name)
        assert (reading.observer, reading.notes, reading.run) == (name, expected.notes, expected.run)
        assert response.notes.ByteSize() > len(name)


def test_pages_one_at_a_time(sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
    """A caller can keep a page token between two calls, and every page converts to summaries."""
    for number in range(2):
        primary.update_session(f"{session_id}-{number}", {"x": 1})
    summaries, token, pages = dict[str, SessionSummary](), "", 0
    with RawClient(sidecar.target) as raw:
        while pages == 0 or token:
            page = raw.call(ListSessionsRequest(page_size=1, page_token=token))
            summaries |= {session.session_id: SessionSummary.from_message(session) for session in page.sessions}
            token, pages = page.next_page_token, pages + 1
    assert pages >= 2
    assert summaries.keys() >= {f"{session_id}-0", f"{session_id}-1"}
    assert summaries[f"{session_id}-0"].version == 1


async def test_raw_calls_in_asyncio(sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
    """The asyncio client makes the same calls in its event loop, and only while it is open."""
    primary.update_session(session_id, {"x": 1})
    with ObserverClient(sidecar.target) as observer:
        run = observer.begin_run(session_id).run
    async with AsyncRawClient(sidecar.target) as raw:
        runs = await raw.call(ListRunsRequest(session_id=session_id))
        session = await raw.call(GetSessionRequest(session_id=session_id))
    assert [Run.from_message(listed) for listed in runs.runs] == [run]
    assert Session.from_message(session.session).fields == primary.get_session(session_id).fields == {"x": 1}
    with pytest.raises(UsageError):
        await raw.call(ListRunsRequest(session_id=session_id))


def test_raw_calls_are_checked_and_not_retried(sidecar: Sidecar, unreachable: str) -> None:
    """The client rejects an object that is not a request, the sidecar an invalid field. Nothing is retried."""
    with RawClient(sidecar.target) as raw:
        with pytest.raises(InvalidArgument, match=r"a request message of session_notes\.v1, not Empty$"):
            raw.call(Empty())
        with pytest.raises(InvalidArgument, match="session_id"):
            raw.call(GetNotesRequest())
    with (
        RawClient(unreachable) as raw,
        pytest.raises(Unavailable, match=rf"^ListSessions on {unreachable}: (?!no answer)"),
    ):
        raw.call(ListSessionsRequest())


def test_a_channel_for_other_stubs(sidecar: Sidecar, session_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint uses target and token like a client, and errors of a stub are translated."""
    monkeypatch.setenv("SESSION_NOTES_TARGET", sidecar.target)
    monkeypatch.setenv("SESSION_NOTES_TOKEN", "canary")
    endpoint = Endpoint()
    assert (endpoint.target, endpoint.tls) == (sidecar.target, None)
    assert list(endpoint.metadata()) == [("authorization", "Bearer canary")]
    assert not Endpoint(anonymous=True).metadata()
    with endpoint.open_channel() as channel:
        health = HealthStub(channel).Check(HealthCheckRequest(), metadata=endpoint.metadata(), timeout=10)
        assert health.status == HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            SessionNotesStub(channel).GetNotes(GetNotesRequest(session_id="not an id"), timeout=10)
    error = SessionNotesError.from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgument)
    assert [violation.field for violation in error.violations] == ["session_id"]


async def test_an_asyncio_channel_for_other_stubs(sidecar: Sidecar, session_id: str) -> None:
    """An endpoint opens channels for grpc.aio as well."""
    endpoint = Endpoint(sidecar.target)
    async with endpoint.open_async_channel() as channel:
        response = await SessionNotesStub(channel).GetNotes(
            GetNotesRequest(session_id=session_id), metadata=endpoint.metadata(), timeout=10
        )
    assert response.ready is False


def test_an_endpoint_has_the_rules_of_a_client() -> None:
    """An invalid target, a token without TLS, and TLS on a unix socket are rejected before anything is sent."""
    for arguments in (
        {"target": "http://127.0.0.1"},
        {"target": "notes.example.org:50051", "token": "canary"},
        {"target": "unix:/run/sidecar.sock", "tls": TLS(ca="ca.pem")},
    ):
        with pytest.raises(InvalidArgument):
            Endpoint(**arguments)
