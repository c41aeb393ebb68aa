"""Rule 15: a token can be limited to sessions whose ids begin with a prefix."""

import base64
import hashlib
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, ListDueSessionsRequest
from session_notes.v1.session_state_pb2 import ListSessionsRequest
from session_notes_server.rpc import paging

from tests.access.callers import token_files, with_token, write_secret
from tests.fundamentals.inputs import ALL_RPCS, fields_of, request_of
from tests.stores import Store
from tests.support import Refusal, SessionCalls, Sidecar, new_channel, refused

ACME, TWO, HASHED, OBSERVER, FULL = (f"canary-{name}-77c1" for name in ("acme", "two", "hashed", "observer", "full"))
SESSION_RPCS = [rpc for rpc in ALL_RPCS if "session_id" in fields_of(rpc)]
GET, BATCH = "SessionNotes/GetNotes", "SessionNotes/BatchGetNotes"
DENIED = (grpc.StatusCode.PERMISSION_DENIED, "SESSION_NOT_ALLOWED")


@pytest.fixture(scope="module")
def channel(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel to a sidecar that requires tokens, on the store of the shared one."""
    directory = token_files(tmp_path_factory.mktemp("limited") / "tokens", {})
    hashed = hashlib.sha256(HASHED.encode()).hexdigest()
    write_secret(
        directory / "admin",
        f"{ACME} prefix=acme.",
        f"{TWO}  prefix=acme.\tprefix=globex.",
        f"sha256:{hashed} prefix=acme.",
        FULL,
    )
    write_secret(directory / "observer", f"{OBSERVER} prefix=acme.")
    with (
        Sidecar(sidecar.store.url, prefix=sidecar.store.prefix, flags=["--tokens-dir", str(directory)]) as limited,
        new_channel(limited.target) as channel,
    ):
        yield channel


def calls(channel: grpc.Channel, token: str, session_id: str) -> SessionCalls:
    """Return calls on a session with a token."""
    return SessionCalls(with_token(channel, token), session_id)


def denied(session: SessionCalls, rpc: str, **fields: Any) -> Refusal:
    """Assert that an RPC is denied because of the session."""
    with refused(*DENIED) as error:
        session.call(rpc, request_of(rpc, session.id, **fields))
    assert (error.metadata, error.fields) == ({}, [])
    return error


@pytest.mark.parametrize("rpc", SESSION_RPCS)
@pytest.mark.parametrize("token", [ACME, HASHED], ids=["token", "hash"])
def test_a_session_with_the_prefix_can_be_used(channel: grpc.Channel, session_id: str, rpc: str, token: str) -> None:
    """A limited token may call every method of its role on a session whose id begins with the prefix."""
    session = calls(channel, token, f"acme.{session_id}")
    session.begin_run("begun")
    session.call(rpc, request_of(rpc, session.id))


@pytest.mark.parametrize("rpc", SESSION_RPCS)
def test_another_session_cannot_be_used(channel: grpc.Channel, session_id: str, store: Store, rpc: str) -> None:
    """Every method is denied for any other session, in the same words whether it exists or not, and changes nothing."""
    other = calls(channel, FULL, f"globex.{session_id}")
    session = calls(channel, ACME, other.id)
    unknown = denied(session, rpc)
    assert store.keys(other.id) == []
    other.append(1, "a")
    other.begin_run("begun")
    before, expiries = store.dump(other.id), store.expiries_ms(other.id)
    assert denied(session, rpc).text == unknown.text
    assert store.dump(other.id) == before
    assert store.expiries_ms(other.id) == pytest.approx(expiries, abs=5)


@pytest.mark.parametrize("place", [0, 1, 1500])
def test_a_batch_is_denied_for_any_entry(channel: grpc.Channel, session_id: str, place: int) -> None:
    """BatchGetNotes is denied if any entry is for another session, wherever it is, even beyond the allowed number."""
    session = calls(channel, ACME, f"acme.{session_id}")
    requests = [GetNotesRequest(session_id=session.id)] * place
    if requests[:1000]:
        session.call(BATCH, BatchGetNotesRequest(requests=requests[:1000]))
    requests.append(GetNotesRequest(session_id=f"globex.{session_id}"))
    with refused(*DENIED):
        session.call(BATCH, BatchGetNotesRequest(requests=requests))


def test_a_prefix_is_compared_exactly(channel: grpc.Channel, session_id: str) -> None:
    """Only an id that begins with all of the prefix is allowed."""
    for allowed in ("acme.", f"acme.{session_id}", "acme.*"):
        calls(channel, ACME, allowed).get_notes()
    for other in ("acme", "acm", "Acme.x", "xacme.", "acme-x", "acme", "prefix=acme.", "*"):
        denied(calls(channel, ACME, other), GET)


def test_several_prefixes(channel: grpc.Channel, session_id: str) -> None:
    """A token can have several prefixes, and a token without one may use every session."""
    for prefix in ("acme.", "globex."):
        calls(channel, TWO, prefix + session_id).append_turns(1)
    denied(calls(channel, TWO, f"initech.{session_id}"), GET)
    for prefix in ("acme.", "globex.", "initech."):
        calls(channel, FULL, prefix + session_id).append_turns(1)


@pytest.mark.parametrize("bad_id", ["", "a b", "{acme.}", "acme. x", "a" * 257])
@pytest.mark.parametrize("rpc", SESSION_RPCS)
def test_an_invalid_id_is_an_invalid_argument(channel: grpc.Channel, rpc: str, bad_id: str) -> None:
    """An empty or invalid session id is INVALID_ARGUMENT for a limited token too."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        calls(channel, ACME, bad_id).call(rpc, request_of(rpc, bad_id))
    assert error.fields == ["session_id"]


def test_the_session_is_checked_after_the_role_and_before_other_fields(channel: grpc.Channel, session_id: str) -> None:
    """The order is: token, role, malformed message, session, other fields."""
    other = f"globex.{session_id}"
    with refused(grpc.StatusCode.UNAUTHENTICATED):
        calls(channel, "unknown", other).get_notes()
    with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
        calls(channel, OBSERVER, other).append_turns(1)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"):
        calls(channel, ACME, other).call(GET, b"\x0a\x7fshort")
    denied(calls(channel, ACME, other), GET, current_turn=-1)
    with refused(*DENIED):
        requests = [GetNotesRequest(session_id="a b"), GetNotesRequest(session_id=other)]
        calls(channel, ACME, other).call(BATCH, BatchGetNotesRequest(requests=requests))


def pages(session: SessionCalls, token: str = "") -> Iterator[Any]:
    """Yield the pages of ListSessions, of two sessions each."""
    while True:
        page = session.state.ListSessions(ListSessionsRequest(page_size=2, page_token=token), timeout=10)
        yield page
        if not (token := page.next_page_token):
            return


def decoded(token: str) -> str:
    """Return the content of a page token."""
    return base64.urlsafe_b64decode(token + "===").decode()


def test_a_listing_has_allowed_sessions_only(channel: grpc.Channel, session_id: str) -> None:
    """ListSessions returns the sessions with the prefix, and no page or token has the id of another."""
    own = {f"acme.{session_id}-{number}" for number in range(5)}
    others = {f"globex.{session_id}-{number}" for number in range(20)}
    for other in (*own, *others):
        calls(channel, FULL, other).append_turns(1)
    listed = set[str]()
    for page in pages(calls(channel, ACME, session_id)):
        listed |= {summary.session_id for summary in page.sessions}
        assert "globex." not in decoded(page.next_page_token)
    assert own <= listed
    assert all(entry.startswith("acme.") for entry in listed)
    everything = {summary.session_id for page in pages(calls(channel, FULL, "")) for summary in page.sessions}
    assert own | others <= everything


def test_a_page_token_shows_nothing_more(channel: grpc.Channel, session_id: str) -> None:
    """A page token with ids of other sessions, forged or from another caller, lists only the allowed ones."""
    ids = [f"{prefix}.{session_id}-{number}" for number in range(4) for prefix in ("globex", "acme")]
    for other in ids:
        calls(channel, FULL, other).append_turns(1)
    token = paging.token(("ListSessions",), (ids, None))
    listed = list[str]()
    for page in pages(calls(channel, ACME, session_id), token):
        listed += [summary.session_id for summary in page.sessions]
        assert "globex." not in decoded(page.next_page_token)
    assert listed == ids[1::2]


def test_due_sessions_are_allowed_ones_only(channel: grpc.Channel, session_id: str) -> None:
    """ListDueSessions returns the sessions with the prefix, and no page or token has the id of another."""
    ids = [f"{prefix}.{session_id}-{number}" for number in range(4) for prefix in ("globex", "acme")]
    for other in ids:
        calls(channel, FULL, other).append_turns(1)
    limited, listed, token = calls(channel, OBSERVER, ""), set[str](), ""
    while True:
        page = limited.notes.ListDueSessions(ListDueSessionsRequest(page_size=2, page_token=token), timeout=10)
        listed |= {due.session_id for due in page.sessions}
        if not (token := page.next_page_token):
            break
        assert "globex." not in decoded(token)
    assert set(ids[1::2]) <= listed
    assert all(entry.startswith("acme.") for entry in listed)
