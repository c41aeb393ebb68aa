"""Errors: input above a size limit is RESOURCE_EXHAUSTED with the limit; input at the limit is accepted."""

import grpc
import pytest
from google.protobuf.struct_pb2 import Value
from session_notes.v1.notes_pb2 import Issue, Notes
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.settings import EngineName

from tests.fundamentals.inputs import request_of
from tests.stores import Store
from tests.support import SessionCalls, refused

KIB = 1024
UPDATE = "SessionState/UpdateSession"


def notes_of(size: int) -> Notes:
    """Return notes of exactly `size` bytes."""
    message = Notes(summary="x" * (size - 4))
    assert message.ByteSize() == size
    return message


def value_of(size: int) -> Value:
    """Return a value of exactly `size` bytes."""
    message = Value(string_value="x" * (size - 4))
    assert message.ByteSize() == size
    return message


def turn_of(size: int) -> Turn:
    """Return a turn of exactly `size` bytes."""
    message = Turn(text="x" * (size - 4))
    assert message.ByteSize() == size
    return message


def test_notes_of_256_kib(session: SessionCalls, store: Store) -> None:
    """Notes of 256 KiB are accepted; one byte more is TOO_LARGE and changes nothing."""
    largest = notes_of(256 * KIB)
    session.write_notes("run-1", largest)
    assert session.get_notes().notes == largest
    before = store.dump(session.id)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.write_notes("run-2", notes_of(256 * KIB + 1))
    assert error.metadata == {"field": "notes", "limit": "262144", "actual": "262145"}
    assert store.dump(session.id) == before


def test_the_notes_limit_applies_to_many_small_parts(session: SessionCalls) -> None:
    """The limit applies to the notes as a whole, however small their parts."""
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.write_notes("run-1", Notes(issues=[Issue(text="x" * 98)] * 2622))
    assert (error.metadata["field"], error.metadata["limit"]) == ("notes", "262144")


def test_a_turn_of_64_kib(session: SessionCalls, store: Store) -> None:
    """A turn of 64 KiB is accepted; one byte more is TOO_LARGE, is named, and none of the call's turns is appended."""
    session.append_turns([turn_of(64 * KIB)] * 3)
    before = store.dump(session.id)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.append_turns([turn_of(20_000), turn_of(64 * KIB + 1)])
    assert error.metadata == {"field": "turns[1]", "limit": "65536", "actual": "65537"}
    assert store.dump(session.id) == before


def test_a_field_of_256_kib(session: SessionCalls, store: Store) -> None:
    """A field of 256 KiB is accepted; one byte more is TOO_LARGE, and none of the call's fields is set."""
    session.call(UPDATE, request_of(UPDATE, session.id, set={"a": value_of(256 * KIB)}))
    before = store.dump(session.id)
    spoiled = {"b": value_of(20_000), "c": value_of(256 * KIB + 1)}
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.call(UPDATE, request_of(UPDATE, session.id, set=spoiled))
    assert error.metadata == {"field": error.metadata["field"], "limit": "262144", "actual": "262145"}
    assert store.dump(session.id) == before


def test_a_batch_of_1000(session: SessionCalls) -> None:
    """A batch of 1,000 requests is accepted; 1,001 entries are TOO_LARGE."""
    session.write_notes("run-1", "said")
    requests = [GetNotesRequest(session_id=session.id if index == 999 else f"unknown-{index}") for index in range(1000)]
    answers = session.notes.BatchGetNotes(BatchGetNotesRequest(requests=requests), timeout=30).responses
    assert [index for index, answer in enumerate(answers) if answer.ready] == [999]
    assert len(answers) == 1000
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.notes.BatchGetNotes(BatchGetNotesRequest(requests=[*requests, requests[0]]), timeout=30)
    assert error.metadata == {"field": "requests", "limit": "1000", "actual": "1001"}


def test_5000_turns_in_one_call(session: SessionCalls, store: Store) -> None:
    """5,000 turns are appended in one call, and the last 2,000 kept; 5,001 entries are TOO_LARGE."""
    new_turns = [Turn(text=str(number)) for number in range(5000)]
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.append_turns([*new_turns, Turn()])
    assert error.metadata == {"field": "turns", "limit": "5000", "actual": "5001"}
    assert not store.keys(session.id)
    assert session.append_turns(new_turns) == 5000
    assert [turn.text for turn in session.get_session(include_turns=True).turns] == [str(n) for n in range(3000, 5000)]


def test_5000_fields_in_one_call(session: SessionCalls, store: Store) -> None:
    """5,000 fields are set or removed in one call; 5,001 entries are TOO_LARGE."""
    names = [f"field-{number}" for number in range(5001)]
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.update_session(set=dict.fromkeys(names, 1))
    assert error.metadata == {"field": "set", "limit": "5000", "actual": "5001"}
    assert not store.keys(session.id)
    session.update_session(set=dict.fromkeys(names[:5000], 1))
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.update_session(remove=names)
    assert error.metadata == {"field": "remove", "limit": "5000", "actual": "5001"}
    session.update_session(remove=names[:5000])
    assert not session.get_session().fields


def test_a_failures_reason_of_4_kib(session: SessionCalls) -> None:
    """FailRun accepts a reason of 4 KiB; one byte more is TOO_LARGE."""
    session.begin_run("run-1")
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.fail_run("run-1", reason="x" * 4097)
    assert error.metadata == {"field": "reason", "limit": "4096", "actual": "4097"}
    assert session.fail_run("run-1", reason="x" * 4096).run.failure == "x" * 4096


def test_a_message_above_4_mib(session: SessionCalls, store: Store, engine: EngineName) -> None:
    """A message above 4 MiB is TOO_LARGE. Above 8 MiB, grpc.aio itself rejects it, without details."""
    request = request_of("SessionState/AppendTurns", session.id, turns=[turn_of(60 * KIB)] * 70)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.call("SessionState/AppendTurns", request, timeout=30)
    assert error.metadata == {"field": "", "limit": "4194304", "actual": str(request.ByteSize())}
    assert error.message == "the request is larger than 4194304 bytes"
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as error:
        session.append_turns([turn_of(60 * KIB)] * 140, timeout=30)
    assert error.reason == ("TOO_LARGE" if engine is EngineName.NATIVE else "")
    assert store.keys(session.id) == []


def test_a_message_just_below_4_mib(session: SessionCalls) -> None:
    """A message just below 4 MiB is accepted."""
    assert session.append_turns([turn_of(60 * KIB)] * 68, timeout=30) == 68
    assert len(session.get_session(include_turns=True, timeout=30).turns) == 68


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_a_compressed_message_is_measured_decompressed(session: SessionCalls, compression: grpc.Compression) -> None:
    """A message that is small on the wire but too large when decompressed is TOO_LARGE."""
    request = request_of("SessionState/AppendTurns", session.id, turns=[turn_of(60 * KIB)] * 200)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED):
        session.state.AppendTurns(request, timeout=10, compression=compression)  # type: ignore[arg-type]
