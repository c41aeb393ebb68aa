"""Each role does its own: every caller at every method, and nothing is open by accident."""

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from session_notes_server.rpc import authorization

from tests.access.callers import TOKENS, bearer, is_serving, outcome

EVERYBODY, NOBODY_ELSE = {"primary", "observer", "admin"}, {"admin"}
WHO_MAY = {
    "SessionNotes/GetNotes": EVERYBODY,
    "SessionNotes/BatchGetNotes": EVERYBODY,
    "SessionNotes/BeginRun": {"observer", "admin"},
    "SessionNotes/WriteNotes": {"observer", "admin"},
    "SessionNotes/FailRun": {"observer", "admin"},
    "SessionNotes/ListRuns": EVERYBODY,
    "SessionState/GetSession": EVERYBODY,
    "SessionState/UpdateSession": {"primary", "admin"},
    "SessionState/AppendTurns": {"primary", "admin"},
    "SessionState/DeleteSession": {"primary", "admin"},
    "SessionState/ListSessions": NOBODY_ELSE,
}
NO_MESSAGE = b"\xff"


@pytest.mark.parametrize("role", TOKENS)
@pytest.mark.parametrize("rpc", WHO_MAY)
def test_each_role_does_its_own(plain: grpc.Channel, rpc: str, role: str) -> None:
    """A role gets through to its own methods; at others it is told so before its request is looked at."""
    method, metadata = f"/session_notes.v1.{rpc}", bearer(TOKENS[role])
    if role in WHO_MAY[rpc]:
        answered = outcome(plain, method, metadata=metadata)
        # As far as the servicer, which misses a session's id.
        assert answered.reason == "INVALID_FIELD" or answered.code is grpc.StatusCode.OK
        return
    denied = outcome(plain, method, NO_MESSAGE, metadata=metadata)
    assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert denied.metadata == {"method": f"session_notes.v1.{rpc.replace('/', '.')}"}


BAD_CREDENTIALS = [
    pytest.param((), id="none"),
    pytest.param(bearer("nobody-knows-this-one"), id="an unknown token"),
    pytest.param(bearer(TOKENS["admin"][:-1]), id="a token cut short"),
    pytest.param(bearer(TOKENS["admin"].upper()), id="a token in capitals"),
    pytest.param((("authorization", TOKENS["admin"]),), id="no scheme"),
    pytest.param((("authorization", f"Basic {TOKENS['admin']}"),), id="another scheme"),
    pytest.param((("authorization", "Bearer "),), id="an empty token"),
    pytest.param((("authorization", "Bearer"),), id="a scheme alone"),
    pytest.param((("authorization", "Bearer    "),), id="spaces for a token"),
    pytest.param(bearer(TOKENS["observer"]) + bearer(TOKENS["admin"]), id="two tokens"),
    pytest.param((("x-authorization", f"Bearer {TOKENS['admin']}"),), id="another header"),
]


@pytest.mark.parametrize("metadata", BAD_CREDENTIALS)
@pytest.mark.parametrize("rpc", WHO_MAY)
def test_nobody_else_gets_in(plain: grpc.Channel, rpc: str, metadata: tuple[tuple[str, str], ...]) -> None:
    """Without credentials, or with some that nobody knows, every method answers UNAUTHENTICATED, whatever is sent."""
    refused = outcome(plain, f"/session_notes.v1.{rpc}", NO_MESSAGE, metadata=metadata)
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert refused.metadata == {}
    assert "canary" not in refused.text


def test_the_scheme_is_written_as_one_likes(plain: grpc.Channel) -> None:
    """`bearer` is as good as `Bearer` (RFC 7235)."""
    answered = outcome(
        plain, "/session_notes.v1.SessionState/ListSessions", metadata=(("authorization", f"bearer {TOKENS['admin']}"),)
    )
    assert answered.code is grpc.StatusCode.OK


def listed(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> list[str]:
    """The services that reflection names to a caller."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=10)
    return [service.name for service in answer.list_services_response.service]


@pytest.mark.parametrize("role", TOKENS)
def test_reflection_is_for_every_role(plain: grpc.Channel, role: str) -> None:
    """Whoever has a role may ask what the sidecar can do."""
    assert "session_notes.v1.SessionNotes" in listed(plain, bearer(TOKENS[role]))


@pytest.mark.parametrize("metadata", BAD_CREDENTIALS)
def test_reflection_is_for_nobody_else(plain: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
    """Without a role, nobody is told."""
    with pytest.raises(grpc.RpcError) as raised:
        listed(plain, metadata)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_nothing_but_health_is_open(plain: grpc.Channel) -> None:
    """Of all services that are there, named by reflection itself, health alone asks for no credentials."""
    pool = descriptor_pool.Default()
    opened = set()
    for name in listed(plain, bearer(TOKENS["admin"])):
        for method in pool.FindServiceByName(name).methods:
            called: Any = plain.stream_stream(f"/{name}/{method.name}")
            call = called(iter([b""]), timeout=5)
            try:
                next(iter(call))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    continue
            call.cancel()
            opened.add(name)
    assert opened == {"grpc.health.v1.Health"}


def test_health_is_open(plain: grpc.Channel) -> None:
    """Probes have no credentials."""
    assert is_serving(plain)


def test_a_method_that_nobody_thought_of_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RPC without a row in the table keeps the sidecar from starting; so does a row without an RPC."""
    rows = dict(authorization.ALLOWED)
    monkeypatch.setattr(authorization, "ALLOWED", rows)
    authorization._check_table()
    missing = rows.pop("session_notes.v1.SessionNotes.ListRuns")
    with pytest.raises(RuntimeError, match="ListRuns"):
        authorization._check_table()
    rows |= {"session_notes.v1.SessionNotes.ListRuns": missing, "session_notes.v1.SessionNotes.Watch": missing}
    with pytest.raises(RuntimeError, match="Watch"):
        authorization._check_table()
