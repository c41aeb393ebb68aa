"""How the sidecar stops: what is in flight is finished, nothing is left behind, the status is 0."""

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WriteNotesRequest

from tests.stores import StoreServer, is_alive, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, notes, status_of


def test_sigterm_exits_with_0_and_leaves_no_process() -> None:
    """SIGTERM: exit 0, and the embedded store is gone too."""
    with Sidecar() as sidecar:
        pids = sidecar.store_pids()
        assert len(pids) == 1
        assert sidecar.terminate() == 0
        assert not [pid for pid in pids if is_alive(pid)]
        assert "Traceback" not in sidecar.log


def test_ctrl_c_stops_it_as_well() -> None:
    """Ctrl-C in a terminal stops it in the same orderly way."""
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        pids = sidecar.store_pids()
        sidecar.process.send_signal(signal.SIGINT)
        assert sidecar.process.wait(10) in (0, 130)
        assert not [pid for pid in pids if is_alive(pid)]
        assert "Traceback" not in sidecar.log


def test_a_call_in_flight_is_finished(session_id: str) -> None:
    """SIGTERM finishes what is in flight: the call is answered OK, its data is stored, the status is 0."""
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, session_id)
        session.begin_run("run-1")
        admin = sidecar.store.client
        admin.client_pause(60_000, all=False)
        request = WriteNotesRequest(session_id=session_id, run_id="run-1", notes=notes("said at last"))
        call = session.notes.WriteNotes.future(request, timeout=10)
        # In flight for sure: the store has the command, and holds it back.
        eventually(lambda: any("b" in client["flags"] for client in admin.client_list()))
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGTERM)
        eventually(lambda: sidecar.health() != health_pb2.HealthCheckResponse.SERVING)
        admin.client_unpause()
        assert call.result().outcome == WRITE_OUTCOME_ACCEPTED
        assert sidecar.process.wait(10) == 0
        assert sidecar.store.holding("said at last", session_id)


def test_in_a_storm_every_call_ends_well(session_id: str) -> None:
    """SIGTERM in a storm: each call ends OK or UNAVAILABLE, exit 0; what was answered OK is there afterwards."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        numbers, kept, ends = count(), set[str](), set[grpc.StatusCode]()
        stopped = threading.Event()

        def write() -> None:
            while not stopped.is_set():
                name = f"field-{next(numbers)}"
                end = status_of(lambda name=name: session.update_session(set={name: 1}))  # type: ignore[misc]
                ends.add(end)
                if end != grpc.StatusCode.OK:
                    return
                kept.add(name)

        with ThreadPoolExecutor(20) as pool:
            writers = [pool.submit(write) for _ in range(20)]
            eventually(lambda: len(kept) > 100)
            try:
                assert sidecar.terminate() == 0
            finally:
                stopped.set()
            for writer in writers:
                writer.result()
        assert ends <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        sidecar.start()
        with new_channel(sidecar.target) as afterwards:
            assert kept <= set(SessionCalls(afterwards, session_id).get_session(timeout=30).fields)


def test_health_says_it_before_it_goes() -> None:
    """SIGTERM: health turns NOT_SERVING before the connection goes, so that a balancer can look elsewhere."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        seen: list[int] = []
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        def look() -> None:
            try:
                seen.extend(answer.status for answer in watch)
            except grpc.RpcError:
                return

        watcher = threading.Thread(target=look)
        watcher.start()
        eventually(lambda: seen)
        assert sidecar.terminate() == 0
        watcher.join(10)
        assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
