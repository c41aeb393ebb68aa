"""Errors: fixed and readable messages, no user data, and a status for a store that refuses."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.turn_pb2 import Turn

from tests.faults.frames import DATA, END_HEADERS, END_STREAM, HEADERS, Client, frame, message, request_fields
from tests.fundamentals.inputs import request_of
from tests.stores import Store, StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, notes, refused, struct, value

CANARY = "canary-5a81f0"
NOT_FOR_CALLERS = ("Traceback", "Exception", "Error(", "redis", "Redis", "127.0.0.1", "valkey", ".py", "lua", "ERR ")


def refusals() -> list[Callable[[SessionCalls], object]]:
    """Return calls that fail, each with the canary in its request."""
    full = notes(CANARY, follow_up_suggestions=[CANARY], extra=struct({"a": CANARY}))
    bad = Notes(summary=CANARY, coverage={"goals": 2}, extra=struct({"a": CANARY}))
    return [
        lambda session: session.get_notes(observer=f"{CANARY} {CANARY}"),
        lambda session: session.begin_run(f"{{{CANARY}}}"),
        lambda session: session.write_notes(f"{CANARY}\n", full),
        lambda session: session.write_notes("run", bad),
        lambda session: session.write_notes("written", full),
        lambda session: session.write_notes("failed", full),
        lambda session: session.write_notes("run", notes(CANARY * 30_000)),
        lambda session: session.fail_run(f"unknown-{CANARY}", reason=CANARY),
        lambda session: session.fail_run("written", reason=CANARY),
        lambda session: session.list_runs(page_token=CANARY),
        lambda session: session.update_session(set={"a": CANARY}, expected_version=9),
        lambda session: session.write_notes("run", Notes(coverage={CANARY: 2})),
        lambda session: session.update_session(set={CANARY: float("nan")}),
        lambda session: session.update_session(set={CANARY: 1}, remove=[CANARY]),
        lambda session: session.update_session(set={CANARY: "x" * 300_000}),
        lambda session: session.update_session(set={"a": [CANARY, float("nan")]}),
        lambda session: session.append_turns([Turn(text=CANARY)], expected_turn_count=9),
        lambda session: session.append_turns([Turn(text=CANARY * 10_000)]),
        lambda session: session.call("SessionNotes/WriteNotes", b"\xff\xff" + CANARY.encode()),
        lambda session: SessionCalls(session.channel, f"{CANARY} {CANARY}").get_session(),
    ]


def prepared(session: SessionCalls) -> None:
    """Prepare the session, with the canary in all its data, so that these calls fail."""
    session.update_session(set={"a": CANARY})
    session.append_turns([Turn(text=CANARY)])
    session.write_notes("written", f"{CANARY} before")
    session.begin_run("failed")
    session.fail_run("failed", reason=CANARY)


@pytest.mark.parametrize("index", range(len(refusals())))
def test_no_user_data_in_an_error(session: SessionCalls, index: int) -> None:
    """No exception text, address or user data reaches a caller, in the message or the details."""
    prepared(session)
    with refused() as error:
        refusals()[index](session)
    assert CANARY not in error.text
    assert not [text for text in NOT_FOR_CALLERS if text in error.text]
    assert error.message
    assert error.reason


def test_messages_are_fixed(session: SessionCalls) -> None:
    """The same mistake gives the same message, whatever the data."""
    messages = []
    for run_id in ("one", "two"):
        session.write_notes(run_id)
        with refused(grpc.StatusCode.ALREADY_EXISTS, "RUN_ALREADY_WRITTEN") as error:
            session.write_notes(run_id, "other")
        messages.append(error.message)
    assert messages[0] == messages[1]


def test_a_bug_is_internal_with_an_id(session: SessionCalls, store: Store, sidecar: Sidecar) -> None:
    """A bug is INTERNAL with an id that is also in the details and the sidecar's log, and with nothing else."""
    store.client.set(store.key(session.id), f"{CANARY}: not what the sidecar keeps here", px=60_000)
    with refused(grpc.StatusCode.INTERNAL, "INTERNAL") as error:
        session.get_session()
    assert error.metadata["error_id"] in error.message
    assert not [text for text in (CANARY, "WRONGTYPE", session.id, *NOT_FOR_CALLERS) if text in error.text]
    eventually(lambda: error.metadata["error_id"] in sidecar.log)
    assert CANARY not in sidecar.log


@pytest.mark.parametrize("version", ["v1alpha", "v1"])
def test_malformed_reflection(sidecar: Sidecar, version: str) -> None:
    """A request of reflection that does not parse is MALFORMED_MESSAGE, and no exception's text reaches its caller."""
    good = reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()
    logged = len(sidecar.log)
    with new_channel(sidecar.target) as channel:
        method: Any = channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo")
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE") as error:
            list(method(iter([good, b"\xff" + CANARY.encode()]), timeout=10))
    assert not [text for text in (CANARY, *NOT_FOR_CALLERS) if text in error.text]
    assert "Traceback" not in sidecar.log[logged:]


def test_no_user_data_in_the_log(session: SessionCalls, sidecar: Sidecar) -> None:
    """The sidecar's log contains no user data from accepted or rejected calls."""
    prepared(session)
    for call in refusals():
        with pytest.raises(grpc.RpcError):
            call(session)
    session.delete()
    assert CANARY not in sidecar.log


def test_no_metadata_in_the_log(sidecar: Sidecar) -> None:
    """Metadata that is not UTF-8, such as a mistyped token, is not in the log, and neither is a traceback."""
    logged = len(sidecar.log)
    metadata = [("authorization", f"Bearer {CANARY}\udcff"), ("x-user", f"{CANARY}\udcff")]
    fields = request_fields("session_notes.v1.SessionNotes/GetNotes", metadata)
    with Client(sidecar.target) as client:
        client.send(frame(HEADERS, END_HEADERS, 1, fields) + frame(DATA, END_STREAM, 1, message(b"")))
        assert any(received.kind == HEADERS for received in client.frames())
    assert not [text for text in (CANARY, "Traceback") if text in sidecar.log[logged:]]


@pytest.mark.parametrize(
    ("setting", "refusing", "normal"),
    [
        pytest.param("maxmemory", "1", "0", id="OOM"),
        pytest.param("min-replicas-to-write", "1", "0", id="NOREPLICAS"),
    ],
)
def test_a_store_that_refuses_is_unavailable(session_id: str, setting: str, refusing: str, normal: str) -> None:
    """While the store refuses writes they are UNAVAILABLE with RetryInfo, reads work, and writes recover."""
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as other_channel,
    ):
        session = SessionCalls(other_channel, session_id)
        session.write_notes("run-1", "said")
        before = sidecar.store.dump(session_id)
        sidecar.store.client.config_set(setting, refusing)
        for call in (session.begin_run, session.write_notes, session.append_turns, session.update_session):
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") as error:
                call()
            assert error.retry_delay_seconds
            assert not [text for text in ("OOM", "NOREPLICAS", setting) if text in error.text]
        assert session.get_notes().notes.summary == "said"
        assert sidecar.store.dump(session_id) == before
        sidecar.store.client.config_set(setting, normal)
        assert session.write_notes("run-2").run.number == 2


def test_invalid_input_is_rejected_without_the_store(session_id: str) -> None:
    """Invalid input is INVALID_ARGUMENT even while the store is down, since a retry would not help."""
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as other_channel,
    ):
        server.kill()
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
            SessionCalls(other_channel, session_id).begin_run("a b", lease=timedelta(0))


def test_one_invalid_field_rejects_the_request(session: SessionCalls, store: Store) -> None:
    """A request with one invalid field changes nothing."""
    request = request_of(
        "SessionState/UpdateSession", session.id, set={"good": value(1), "bad": value(float("nan"))}, remove=["other"]
    )
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD"):
        session.call("SessionState/UpdateSession", request)
    assert store.keys(session.id) == []
