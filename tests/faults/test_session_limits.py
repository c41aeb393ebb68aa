"""Limits of a session: the total size of its fields, of its transcript, and of its runs and notes."""

import grpc
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, notes, refused

MIB = 1024 * 1024
LARGE = "x" * 260_000


def fill(session: SessionCalls, fields: int = 32) -> None:
    """Set fields of 260,000 bytes each, of which 32 fit into a session."""
    for first in range(0, fields, 8):
        session.update_session(set={f"field-{number}": LARGE for number in range(first, min(first + 8, fields))})


def test_fields_have_a_total_limit(session: SessionCalls) -> None:
    """An UpdateSession above 8 MiB of fields is TOO_LARGE with the limit and changes nothing; one that fits is OK."""
    fill(session)
    before = session.get_session()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.update_session(set={"another": LARGE})
    assert (error.metadata["field"], error.metadata["limit"]) == ("set", str(8 * MIB))
    assert int(error.metadata["actual"]) > 8 * MIB
    assert session.get_session().version == before.version
    assert session.update_session(set={"field-0": LARGE}).version == before.version + 1
    session.update_session(set={"another": LARGE}, remove=["field-1", "field-1", "absent"])
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"):
        session.update_session(set={"yet another": LARGE})
    assert len(session.get_session().fields) == 32


def test_small_fields_have_a_limit(session: SessionCalls, store: Store) -> None:
    """Each field counts 256 bytes more than its content, since even a small one takes time to read."""
    session.update_session(set={str(number): 1 for number in range(1000)})
    field_bytes = int(store.client.hget(store.key(session.id), "field_bytes"))
    assert 256_000 < field_bytes < 300_000
    session.update_session(remove=[str(number) for number in range(1000)])
    assert int(store.client.hget(store.key(session.id), "field_bytes")) == 0


def test_a_transcript_keeps_8_mib(session: SessionCalls) -> None:
    """Above 8 MiB of turns the oldest are dropped, and the turn count keeps growing."""
    appended = [Turn(speaker="user", text=f"{number:06}" + "x" * 60_000) for number in range(150)]
    for first in range(0, 150, 50):
        count = session.append_turns(appended[first : first + 50])
    assert count == 150
    stored = session.get_session(include_turns=True)
    count_kept = 8 * MIB // appended[0].ByteSize()
    assert (stored.turn_count, list(stored.turns)) == (150, appended[-count_kept:])
    assert list(session.begin_run("run-1", include_transcript=True).transcript) == appended[-count_kept:]


def test_old_notes_make_room_for_new_ones(session: SessionCalls) -> None:
    """At 16 MiB of runs and notes, an observer's oldest notes are dropped before new ones are rejected."""
    for observer in ("a", "b", "c"):
        for number in range(20):
            session.write_notes(f"run-{number}", LARGE, observer=observer)
    for number in range(20):
        written = session.write_notes(f"run-{number}", LARGE, observer="d")
        assert written.outcome == WRITE_OUTCOME_ACCEPTED
    runs = session.list_runs(observer="d", include_notes=True).runs
    assert len(runs) == 20
    assert [run.HasField("notes") for run in runs] == sorted((run.HasField("notes") for run in runs), reverse=True)
    assert runs[0].HasField("notes")
    assert not runs[-1].HasField("notes")
    assert session.get_notes(observer="d").notes == notes(LARGE)


def test_runs_and_notes_have_a_total_limit(session: SessionCalls, store: Store) -> None:
    """When no notes can be dropped, a WriteNotes of a new observer is TOO_LARGE with the limit and changes nothing."""
    for number in range(64):
        try:
            session.write_notes("run-1", LARGE, observer=f"observer-{number}")
        except grpc.RpcError:
            break
    before = store.dump(session.id)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.write_notes("run-1", LARGE, observer="another")
    assert error.metadata["limit"] == str(16 * MIB)
    assert store.dump(session.id) == before
    assert session.write_notes("run-2", "small", observer="observer-0").outcome == WRITE_OUTCOME_ACCEPTED
    assert len(session.get_session().notes) == number


def test_observers_have_a_limit(session: SessionCalls, store: Store) -> None:
    """Each observer counts 8 KiB, which bounds the number of observers of a session."""
    session.begin_run("run-1")
    store.client.hset(store.key(session.id, "runs"), "bytes", 16 * MIB - 9000)
    session.begin_run("run-1", observer="has-room")
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"):
        session.begin_run("run-1", observer="has-none")
    assert session.begin_run("run-1", observer="has-room").started
