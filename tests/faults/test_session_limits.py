"""A session as a whole has a limit: of its fields, of its transcript, of its runs and notes."""

import grpc
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, notes, refused

MIB = 1024 * 1024
LARGE = "x" * 260_000


def fill(session: SessionCalls, fields: int = 32) -> None:
    """Set fields of 260,000 bytes each, some to a call: 32 of them have room, and no 33rd."""
    for first in range(0, fields, 8):
        session.update_session(set={f"field-{number}": LARGE for number in range(first, min(first + 8, fields))})


def test_fields_have_a_limit_together(session: SessionCalls) -> None:
    """Beyond 8 MiB of fields UpdateSession is refused with the limit, changes nothing, and what takes less is taken."""
    fill(session)
    before = session.get_session()
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.update_session(set={"one more": LARGE})
    assert (error.metadata["field"], error.metadata["limit"]) == ("set", str(8 * MIB))
    assert int(error.metadata["actual"]) > 8 * MIB
    assert session.get_session().version == before.version
    assert session.update_session(set={"field-0": LARGE}).version == before.version + 1
    session.update_session(set={"one more": LARGE}, remove=["field-1", "field-1", "not there"])
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"):
        session.update_session(set={"two more": LARGE})
    assert len(session.get_session().fields) == 32


def test_small_fields_have_a_limit_too(session: SessionCalls, store: Store) -> None:
    """Each field counts 256 bytes more than it holds: it takes its time to read, however small it is."""
    session.update_session(set={str(number): 1 for number in range(1000)})
    taken = int(store.client.hget(store.key(session.id), "field_bytes"))
    assert 256_000 < taken < 300_000
    session.update_session(remove=[str(number) for number in range(1000)])
    assert int(store.client.hget(store.key(session.id), "field_bytes")) == 0


def test_a_transcript_keeps_8_mib(session: SessionCalls) -> None:
    """Of more than 8 MiB of turns the oldest go; the turn count goes on counting."""
    said = [Turn(speaker="user", text=f"{number:06}" + "x" * 60_000) for number in range(150)]
    for first in range(0, 150, 50):
        count = session.append_turns(said[first : first + 50])
    assert count == 150
    found = session.get_session(include_turns=True)
    kept = 8 * MIB // said[0].ByteSize()
    assert (found.turn_count, list(found.turns)) == (150, said[-kept:])
    assert list(session.begin_run("run-1", include_transcript=True).transcript) == said[-kept:]


def test_history_gives_way_to_new_notes(session: SessionCalls) -> None:
    """Where 16 MiB of runs and notes are full, an observer's oldest notes go before its new ones are refused."""
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


def test_runs_and_notes_have_a_limit_together(session: SessionCalls, store: Store) -> None:
    """Where nothing is left to give way, WriteNotes and BeginRun of a new run are refused with the limit."""
    for number in range(64):
        try:
            session.write_notes("run-1", LARGE, observer=f"observer-{number}")
        except grpc.RpcError:
            break
    before = store.dump(session.id)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE") as error:
        session.write_notes("run-1", LARGE, observer="one-more")
    assert error.metadata["limit"] == str(16 * MIB)
    assert store.dump(session.id) == before
    assert session.write_notes("run-2", "small", observer="observer-0").outcome == WRITE_OUTCOME_ACCEPTED
    assert len(session.get_session().notes) == number


def test_many_observers_have_a_limit(session: SessionCalls, store: Store) -> None:
    """Each observer counts 8 KiB, so that a session with observers without end cannot be made."""
    session.begin_run("run-1")
    store.client.hset(store.key(session.id, "runs"), "bytes", 16 * MIB - 9000)
    session.begin_run("run-1", observer="has-room")
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_LARGE"):
        session.begin_run("run-1", observer="has-none")
    assert session.begin_run("run-1", observer="has-room").started
