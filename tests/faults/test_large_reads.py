"""Large sessions, read and deleted while a primary asks: nothing that is within the limits takes the store away."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest
from session_notes.v1.session_state_pb2 import GetSessionRequest
from session_notes.v1.turn_pb2 import Turn

from tests.stores import Store
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, status_of

LARGE = "x" * 250_000
TIMEOUTS = ("--notes-timeout", "500ms", "--store-timeout", "1s")

# Twenty observers, each with the thousand runs that are remembered.
FILL = """
for observer = 1, 20 do
  for number = 1, 1000 do
    redis.call('HSET', KEYS[1], 'observer-' .. observer .. ' run-' .. number, number)
    redis.call('HSET', KEYS[2], 'r:observer-' .. observer .. ' ' .. number, string.rep('x', 100))
  end
end
redis.call('PEXPIRE', KEYS[1], 60000)
redis.call('PEXPIRE', KEYS[2], 60000)
"""


@pytest.mark.parametrize("kind", ["16 BatchGetNotes", "4 GetSession"])
def test_large_reads_leave_the_store_to_others(kind: str) -> None:
    """While they run each GetNotes is answered, health is SERVING, and they themselves are all answered."""
    with Sidecar(flags=TIMEOUTS) as sidecar, new_channel(sidecar.target) as channel:
        primary, large = SessionCalls(channel, new_session_id()), SessionCalls(channel, new_session_id())
        primary.write_notes("run-1")
        large.write_notes("run-1", LARGE)
        if kind == "4 GetSession":
            for number in range(32):
                large.update_session(set={f"field-{number}": LARGE})
            for _ in range(3):
                large.append_turns([Turn(text="x" * 60_000)] * 50)
        entry = GetNotesRequest(session_id=large.id)
        requests = {
            "16 BatchGetNotes": ("SessionNotes/BatchGetNotes", BatchGetNotesRequest(requests=[entry] * 120)),
            "4 GetSession": ("SessionState/GetSession", GetSessionRequest(session_id=large.id, include_turns=True)),
        }
        rpc, request = requests[kind]
        message, count, over = request.SerializeToString(), int(kind.split()[0]), threading.Event()

        def read() -> grpc.StatusCode:
            with new_channel(sidecar.target) as own:  # Bytes for bytes: to parse them is no part of this.
                return status_of(lambda: SessionCalls(own, large.id).call(rpc, message, timeout=60))

        def ask() -> list[object]:
            answers: list[object] = []
            while not over.is_set():
                answers += [status_of(primary.get_notes), sidecar.health()]
            return answers

        with ThreadPoolExecutor(count + 1) as pool:
            asking = pool.submit(ask)
            reading = [pool.submit(read) for _ in range(count)]
            statuses = [each.result() for each in reading]
            over.set()
            assert set(asking.result()) == {grpc.StatusCode.OK, 1}
        assert set(statuses) == {grpc.StatusCode.OK}


def test_a_deletion_takes_no_time_however_many_runs_are_remembered(session: SessionCalls, store: Store) -> None:
    """Of 20,000 runs, the ids stay behind in one step: no command of it takes the store even 20 ms."""
    session.append_turns(1)
    store.client.eval(FILL, 2, store.key(session.id, "ids"), store.key(session.id, "runs"))
    before = store.client.config_get("slowlog-log-slower-than")["slowlog-log-slower-than"]
    store.client.slowlog_reset()
    store.client.config_set("slowlog-log-slower-than", 20_000)
    try:
        assert session.delete().existed
        slow = store.client.slowlog_get()
    finally:
        store.client.config_set("slowlog-log-slower-than", before)
        store.client.slowlog_reset()
    assert slow == []
    assert status_of(lambda: session.write_notes("run-1000", observer="observer-20")) is (
        grpc.StatusCode.FAILED_PRECONDITION
    )
    store.client.delete(store.key(session.id, "deleted"))
