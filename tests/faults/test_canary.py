"""No leaks: user data and secrets are in no log and no error, even when the store fails or the sidecar has a bug."""

import re
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, ListDueSessionsRequest
from session_notes.v1.session_state_pb2 import ListSessionsRequest

from tests.access.callers import TOKENS, bearer, outcome, token_files
from tests.faults.proxy import Proxy
from tests.stores import Store, StoreServer, valkey_program
from tests.support import (
    CANARY,
    Refusal,
    SessionCalls,
    Sidecar,
    answers,
    eventually,
    leaks,
    new_channel,
    notes,
    refused,
    turns,
)

LOGGED = r"error {} in session_notes"


def test_user_data_is_in_no_log_and_no_error() -> None:
    """A canary in every field is in neither logs nor errors, with a verbose log, through faults of all kinds and a bug.

    The bug is a stored value of a type that the scripts do not expect. It is INTERNAL, with an error id that is logged.
    """
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=("--verbose", "--store-timeout", "300ms"), wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        sidecar.wait_until_serving()
        session, results = SessionCalls(channel, f"session-{CANARY}"), list[Refusal]()
        content = notes(CANARY, follow_up_suggestions=[CANARY], coverage={CANARY: 1.0})
        content.extra[CANARY] = CANARY
        batch = BatchGetNotesRequest(requests=[GetNotesRequest(session_id=session.id, observer=CANARY)] * 2)

        def call_all() -> None:
            turn = turns(1)
            turn[0].text = CANARY
            run = f"run-{CANARY}-{len(results)}"
            for call in (
                lambda: session.begin_run(
                    run, observer=CANARY, include_transcript=True, include_current_notes=True, max_turns=5
                ),
                lambda: session.write_notes(run, content, observer=CANARY),
                lambda: session.fail_run(run, observer=CANARY, reason=CANARY),
                lambda: session.renew_run(run, observer=CANARY),
                lambda: session.append(turn, run),
                lambda: session.append(turn * 2, run),
                lambda: session.update_session(set={CANARY: CANARY}),
                lambda: session.get_notes(observer=CANARY),
                lambda: session.list_runs(observer=CANARY, include_notes=True),
                lambda: session.get_session(include_turns=True),
                lambda: session.notes.BatchGetNotes(batch, timeout=10),
                lambda: session.state.ListSessions(ListSessionsRequest(), timeout=10),
                lambda: session.notes.ListDueSessions(ListDueSessionsRequest(observer=CANARY), timeout=10),
                lambda: session.call("SessionNotes/WriteNotes", CANARY.encode()),
            ):
                refusal = Refusal()
                try:
                    call()
                except grpc.RpcError as error:
                    refusal.read(error)
                results.append(refusal)

        call_all()
        for how in ("swallow", "reset"):
            proxy.lose_reply(CANARY.encode(), how)
            call_all()
        proxy.inject_before_reply(CANARY.encode(), b"$11\r\n" + CANARY.encode() + b"\r\n")
        call_all()
        proxy.inject_before_reply(CANARY.encode(), b"-ERR " + CANARY.encode() + b"\r\n")
        call_all()
        proxy.inject_before_reply(CANARY.encode(), b"\xff" + CANARY.encode() + b"\r\n")
        call_all()
        proxy.refuse()
        call_all()
        proxy.accept()
        eventually(lambda: answers(channel))
        store = Store(server.url, sidecar.store.prefix)
        store.forget()
        store.client.set(store.key(session.id), CANARY, ex=60)
        call_all()
        assert store.holding(CANARY)
        store.close()

        codes = {refusal.code for refusal in results}
        assert {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT} <= codes
        assert grpc.StatusCode.UNKNOWN not in codes
        assert not [refusal.text for refusal in results if CANARY in refusal.text]
        assert CANARY not in sidecar.log
        for refusal in results:
            if refusal.code == grpc.StatusCode.INTERNAL:
                assert re.search(LOGGED.format(refusal.metadata["error_id"]), sidecar.log)


def list_all(session: SessionCalls) -> None:
    """Read every page of ListSessions."""
    token = session.state.ListSessions(ListSessionsRequest(), timeout=10).next_page_token
    while token:
        token = session.state.ListSessions(ListSessionsRequest(page_token=token), timeout=10).next_page_token


def list_all_due(session: SessionCalls) -> None:
    """Read every page of ListDueSessions."""
    token = session.notes.ListDueSessions(ListDueSessionsRequest(), timeout=10).next_page_token
    while token:
        token = session.notes.ListDueSessions(ListDueSessionsRequest(page_token=token), timeout=10).next_page_token


BUGS: dict[str, tuple[str, str, Callable[[SessionCalls], object]]] = {
    "GetNotes": ("", "o:default", SessionCalls.get_notes),
    "BatchGetNotes": (
        "",
        "o:default",
        lambda session: session.notes.BatchGetNotes(
            BatchGetNotesRequest(requests=[GetNotesRequest(session_id=session.id)]), timeout=10
        ),
    ),
    "ListRuns": ("runs", "r:default 1", lambda session: session.list_runs(include_notes=True)),
    "GetSession": ("", f"f:{CANARY}", SessionCalls.get_session),
    "BeginRun": ("", "o:default", lambda session: session.begin_run("run-2", include_transcript=True)),
    "WriteNotes": ("runs", "r:default 1", lambda session: session.write_notes("run-1", CANARY)),
    "RenewRun": ("runs", "r:default 1", lambda session: session.renew_run("run-1")),
    "FailRun": ("runs", "r:default 1", lambda session: session.fail_run("run-1", reason=CANARY)),
    "UpdateSession": ("", "version", lambda session: session.update_session(set={"a": CANARY})),
    "AppendTurns": ("", "turns", lambda session: session.append_turns(1)),
    "DeleteSession": ("deleted", "", SessionCalls.delete),
    "ListDueSessions": ("", "o:default", list_all_due),
    "ListSessions": ("", "turns", list_all),
}


@pytest.mark.parametrize("rpc", BUGS)
def test_a_bug_of_any_handler_tells_nothing(session: SessionCalls, sidecar: Sidecar, store: Store, rpc: str) -> None:
    """An unexpected stored value is INTERNAL with an error id, and neither the log nor the error contains the value.

    Some handlers fail in the store's script, whose error quotes the value, others while they build the response.
    """
    part, field, call = BUGS[rpc]
    session.update_session(set={CANARY: CANARY})
    session.append_turns(1)
    session.write_notes("run-1", CANARY)
    key, broken = store.key(session.id, part), b"\xff" + CANARY.encode()
    if field:
        assert store.client.hset(key, field, broken) == 0, "the field does not exist"
    else:
        store.client.set(key, broken, ex=60)
    try:
        with refused(grpc.StatusCode.INTERNAL) as refusal:
            call(session)
    finally:
        store.client.delete(*store.keys(session.id))
    assert re.search(LOGGED.format(refusal.metadata["error_id"]), sidecar.log)


def test_secrets_are_in_no_log_and_no_error(tmp_path: Path) -> None:
    """Right and wrong Redis passwords and tokens are in neither logs nor errors, with a verbose log."""
    flags = ("--verbose", "--tokens-dir", str(token_files(tmp_path / "tokens")))
    with (
        StoreServer(valkey_program(), ("--requirepass", f"{CANARY}-right")) as server,
        Sidecar(server.url.replace("//", f"//:{CANARY}-wrong@"), flags=flags, wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        codes = set()
        for token in (*TOKENS.values(), f"{CANARY}-unknown", f"{CANARY} two", "", None):
            for method in ("SessionNotes/GetNotes", "SessionState/DeleteSession", "SessionNotes/WriteNotes"):
                request = b"\x0a" + bytes([len(CANARY)]) + CANARY.encode()
                codes.add(outcome(channel, f"/session_notes.v1.{method}", request, metadata=bearer(token)).code)
        assert codes >= {
            grpc.StatusCode.UNAUTHENTICATED,
            grpc.StatusCode.PERMISSION_DENIED,
            grpc.StatusCode.UNAVAILABLE,
        }
        assert "wrong user or password" in sidecar.log
        assert not leaks(sidecar.log)
