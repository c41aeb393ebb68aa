"""Authorization of every role for every method; no method is open by accident."""

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from session_notes_server.contract import SERVICES
from session_notes_server.rpc import authorization
from session_notes_server.settings import EngineName

from tests.access.callers import TOKENS, bearer, is_serving, outcome

EVERY_ROLE = {"primary", "observer", "admin"}
ALLOWED = {
    "SessionNotes/GetNotes": EVERY_ROLE,
    "SessionNotes/BatchGetNotes": EVERY_ROLE,
    "SessionNotes/BeginRun": {"observer", "admin"},
    "SessionNotes/WriteNotes": {"observer", "admin"},
    "SessionNotes/FailRun": {"observer", "admin"},
    "SessionNotes/RenewRun": {"observer", "admin"},
    "SessionNotes/ListDueSessions": {"observer", "admin"},
    "SessionNotes/ListRuns": EVERY_ROLE,
    "SessionState/GetSession": EVERY_ROLE,
    "SessionState/UpdateSession": {"primary", "admin"},
    "SessionState/AppendTurns": {"primary", "admin"},
    "SessionState/DeleteSession": {"primary", "admin"},
    "SessionState/ListSessions": {"admin"},
}
MALFORMED = b"\xff"
GET_NOTES = "session_notes.v1.SessionNotes.GetNotes"


def test_the_table_lists_every_method() -> None:
    """The table of this file lists every method of the contract, so that a new one is tested."""
    methods = {method.full_name for service in SERVICES for method in service.methods}
    assert {f"session_notes.v1.{rpc.replace('/', '.')}" for rpc in ALLOWED} == methods


@pytest.mark.parametrize("role", TOKENS)
@pytest.mark.parametrize("rpc", ALLOWED)
def test_a_role_may_call_its_methods_only(plain: grpc.Channel, rpc: str, role: str) -> None:
    """A role may call its own methods. Calls to other methods are rejected before the request is parsed."""
    method, metadata = f"/session_notes.v1.{rpc}", bearer(TOKENS[role])
    if role in ALLOWED[rpc]:
        reached = outcome(plain, method, metadata=metadata)
        # The call reaches the servicer, which rejects it for a missing session id.
        assert reached.reason == "INVALID_FIELD" or reached.code is grpc.StatusCode.OK
        return
    denied = outcome(plain, method, MALFORMED, metadata=metadata)
    assert (denied.code, denied.reason) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert denied.metadata == {"method": f"session_notes.v1.{rpc.replace('/', '.')}"}


BAD_CREDENTIALS = [
    pytest.param((), id="none"),
    pytest.param(bearer("an-unknown-token"), id="an unknown token"),
    pytest.param(bearer(TOKENS["admin"][:-1]), id="a token cut short"),
    pytest.param(bearer(TOKENS["admin"].upper()), id="a token in capitals"),
    pytest.param((("authorization", TOKENS["admin"]),), id="no scheme"),
    pytest.param((("authorization", f"Basic {TOKENS['admin']}"),), id="another scheme"),
    pytest.param((("authorization", "Bearer "),), id="an empty token"),
    pytest.param((("authorization", "Bearer"),), id="a scheme alone"),
    pytest.param((("authorization", "Bearer    "),), id="spaces in place of a token"),
    pytest.param(bearer(TOKENS["observer"]) + bearer(TOKENS["admin"]), id="two tokens"),
    pytest.param((("x-authorization", f"Bearer {TOKENS['admin']}"),), id="another header"),
]


def is_reset(metadata: tuple[tuple[str, str], ...], engine: EngineName) -> bool:
    """Return whether the native engine's HTTP/2 resets the call, because RFC 9113 forbids a value to end in a space."""
    return engine is EngineName.NATIVE and any(text.endswith(" ") for _, text in metadata)


@pytest.mark.parametrize("metadata", BAD_CREDENTIALS)
@pytest.mark.parametrize("rpc", ALLOWED)
def test_bad_credentials_are_rejected(
    plain: grpc.Channel, rpc: str, metadata: tuple[tuple[str, str], ...], engine: EngineName
) -> None:
    """Without credentials, or with unknown ones, every method is UNAUTHENTICATED, whatever the request."""
    refused = outcome(plain, f"/session_notes.v1.{rpc}", MALFORMED, metadata=metadata)
    if is_reset(metadata, engine):
        assert refused.code is grpc.StatusCode.INTERNAL
        return
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert refused.metadata == {}
    assert "canary" not in refused.text


def test_the_scheme_is_case_insensitive(plain: grpc.Channel) -> None:
    """`bearer` means the same as `Bearer` (RFC 7235)."""
    listing = outcome(
        plain, "/session_notes.v1.SessionState/ListSessions", metadata=(("authorization", f"bearer {TOKENS['admin']}"),)
    )
    assert listing.code is grpc.StatusCode.OK


def listed_services(channel: grpc.Channel, metadata: tuple[tuple[str, str], ...]) -> list[str]:
    """Return the services that reflection lists for these credentials."""
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (response,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata, timeout=10)
    return [service.name for service in response.list_services_response.service]


@pytest.mark.parametrize("role", TOKENS)
def test_reflection_is_for_every_role(plain: grpc.Channel, role: str) -> None:
    """Every role may list the services."""
    assert "session_notes.v1.SessionNotes" in listed_services(plain, bearer(TOKENS[role]))


@pytest.mark.parametrize("metadata", BAD_CREDENTIALS)
def test_reflection_requires_a_role(
    plain: grpc.Channel, metadata: tuple[tuple[str, str], ...], engine: EngineName
) -> None:
    """Without a role, reflection is UNAUTHENTICATED."""
    with pytest.raises(grpc.RpcError) as raised:
        listed_services(plain, metadata)
    expected = grpc.StatusCode.INTERNAL if is_reset(metadata, engine) else grpc.StatusCode.UNAUTHENTICATED
    assert raised.value.code() is expected


def test_only_health_needs_no_credentials(plain: grpc.Channel) -> None:
    """Of all services that reflection lists, only health accepts calls without credentials."""
    pool = descriptor_pool.Default()
    open_services = set()
    for name in listed_services(plain, bearer(TOKENS["admin"])):
        for method in pool.FindServiceByName(name).methods:
            method_call: Any = plain.stream_stream(f"/{name}/{method.name}")
            call = method_call(iter([b""]), timeout=5)
            try:
                next(iter(call))
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    continue
            call.cancel()
            open_services.add(name)
    assert open_services == {"grpc.health.v1.Health"}


def test_health_needs_no_credentials(plain: grpc.Channel) -> None:
    """A health check without credentials gets a response."""
    assert is_serving(plain)


def test_a_method_without_a_row_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An RPC without a row in the table is an error at import, and so is a row without an RPC."""
    rows = dict(authorization.ALLOWED)
    monkeypatch.setattr(authorization, "ALLOWED", rows)
    authorization._check_table()
    missing = rows.pop("session_notes.v1.SessionNotes.ListRuns")
    with pytest.raises(RuntimeError, match="ListRuns"):
        authorization._check_table()
    rows |= {"session_notes.v1.SessionNotes.ListRuns": missing, "session_notes.v1.SessionNotes.Watch": missing}
    with pytest.raises(RuntimeError, match="Watch"):
        authorization._check_table()


def test_a_method_whose_sessions_are_not_checked_prevents_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that names its session in a new way is an error at import, and so is one that names none."""
    authorization._sessions_by_method()
    listings = authorization.LISTINGS
    for other in (listings - {"session_notes.v1.SessionState.ListSessions"}, listings | {GET_NOTES}):
        monkeypatch.setattr(authorization, "LISTINGS", other)
        with pytest.raises(RuntimeError, match=r"GetNotes|ListSessions"):
            authorization._sessions_by_method()
    monkeypatch.setattr(authorization, "LISTINGS", listings)
    monkeypatch.delitem(authorization._SESSIONS_AT, ("requests.session_id",))
    with pytest.raises(RuntimeError, match=r"BatchGetNotes .*requests\.session_id"):
        authorization._sessions_by_method()
