"""Shutdown: calls in flight are finished, no process is left, and the exit code is 0."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WriteNotesRequest

from tests.stores import Store, StoreServer, is_alive, valkey_program
from tests.support import (
    DEFAULT_PREFIX,
    SessionCalls,
    Sidecar,
    eventually,
    new_channel,
    notes,
    program,
    status_of,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares a port's connections")


def test_sigterm_exits_with_0_and_leaves_no_process() -> None:
    """SIGTERM ends the sidecar and its embedded store with exit code 0."""
    with Sidecar() as sidecar:
        pids = sidecar.store_pids()
        assert len(pids) == 1
        assert sidecar.terminate() == 0
        assert not [pid for pid in pids if is_alive(pid)]
        assert "Traceback" not in sidecar.log


def test_ctrl_c_shuts_down() -> None:
    """Ctrl-C shuts the sidecar down like SIGTERM."""
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        pids = sidecar.store_pids()
        sidecar.process.send_signal(signal.SIGINT)
        assert sidecar.process.wait(10) in (0, 130)
        assert not [pid for pid in pids if is_alive(pid)]
        assert "Traceback" not in sidecar.log


INTERRUPTED = """
import os, signal, sys

module = sys.argv.pop(1)

class Finder:
    def find_spec(self, name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from session_notes_tools.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("session_notes_tools.cli", ["serve"]),
        ("click", ["notes", "get", "s1"]),
        ("grpc", ["serve"]),
        ("grpc", ["notes", "get", "s1"]),
        ("session_notes_server.sidecar.supervisor", ["serve"]),
        ("uvloop", ["serve", "--dev"]),
    ],
)
def test_ctrl_c_during_imports(module: str, command: list[str], tmp_path: Path) -> None:
    """Ctrl-C during the imports of any command ends it without a traceback."""
    arguments = [sys.executable, "-c", INTERRUPTED, module, *command]
    home = {
        **os.environ,
        "XDG_DATA_HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "SESSION_NOTES_LISTEN": "127.0.0.1:0",
    }
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=20, env=home)
    assert done.returncode in (-signal.SIGINT, 1, 130)
    assert done.stderr in ("", "\nerror: aborted\n")
    assert [*tmp_path.iterdir()] == []


def test_nohup_is_respected() -> None:
    """If SIGHUP is ignored at the start, as under nohup, the sidecar ignores it too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Sidecar() as sidecar:
            assert sidecar.process is not None
            sidecar.process.send_signal(signal.SIGHUP)
            assert sidecar.health() == health_pb2.HealthCheckResponse.SERVING
            assert sidecar.terminate() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=linux)])
def test_a_second_signal_is_urgent(workers: str, session_id: str) -> None:
    """A second signal ends the wait for a call in flight: UNAVAILABLE, and exit code 0."""
    flags = ["--grace", "60s", "--store-timeout", "60s", "--workers", workers]
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url, flags=flags) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, session_id)
        session.begin_run("run-1")
        admin = sidecar.store.client
        admin.client_pause(60_000, all=False)
        call = session.notes.WriteNotes.future(
            WriteNotesRequest(session_id=session_id, run_id="run-1", notes=notes("too late")), timeout=60
        )
        eventually(lambda: any("b" in client["flags"] for client in admin.client_list()))
        process = sidecar.process
        assert process is not None

        def signal_ends_it() -> bool:
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        eventually(signal_ends_it, 30)
        assert process.returncode == 0
        assert call.code() is grpc.StatusCode.UNAVAILABLE
        admin.client_unpause()


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=linux)])
def test_shutdown_during_the_first_check_of_the_store(workers: str) -> None:
    """SIGTERM ends a start that waits for a store which accepts connections but does not respond."""
    flags = ["--listen", "127.0.0.1:0", "--notes-timeout", "60s", "--store-timeout", "60s", "--workers", workers]
    with StoreServer(valkey_program()) as server:
        admin = Store(server.url, DEFAULT_PREFIX).client
        admin.client_pause(60_000, all=False)
        command = [*program(), "serve", "--redis-url", server.url, *flags]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            eventually(lambda: sum("b" in client["flags"] for client in admin.client_list()) >= int(workers))
            process.terminate()
            assert process.wait(10) == 0
        admin.client_unpause()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_call_in_flight_is_finished(number: signal.Signals, session_id: str) -> None:
    """After SIGTERM or SIGHUP, a call in flight is answered OK, its data is stored, and the exit code is 0."""
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, session_id)
        session.begin_run("run-1")
        admin = sidecar.store.client
        admin.client_pause(60_000, all=False)
        request = WriteNotesRequest(session_id=session_id, run_id="run-1", notes=notes("late"))
        call = session.notes.WriteNotes.future(request, timeout=10)
        # Make sure the call is in flight: the paused store has received the command and blocks it.
        eventually(lambda: any("b" in client["flags"] for client in admin.client_list()))
        assert sidecar.process is not None
        sidecar.process.send_signal(number)
        eventually(lambda: sidecar.health() != health_pb2.HealthCheckResponse.SERVING)
        admin.client_unpause()
        assert call.result().outcome == WRITE_OUTCOME_ACCEPTED
        assert sidecar.process.wait(10) == 0
        assert sidecar.store.holding("late", session_id)


def test_calls_under_load_end_ok_or_unavailable(session_id: str) -> None:
    """SIGTERM under load: each call ends OK or UNAVAILABLE, and acknowledged data is found after a restart."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        numbers, acknowledged, codes = count(), set[str](), set[grpc.StatusCode]()
        stopped = threading.Event()

        def write() -> None:
            while not stopped.is_set():
                name = f"field-{next(numbers)}"
                code = status_of(lambda name=name: session.update_session(set={name: 1}))  # type: ignore[misc]
                codes.add(code)
                if code != grpc.StatusCode.OK:
                    return
                acknowledged.add(name)

        with ThreadPoolExecutor(20) as pool:
            writers = [pool.submit(write) for _ in range(20)]
            eventually(lambda: len(acknowledged) > 100)
            try:
                assert sidecar.terminate() == 0
            finally:
                stopped.set()
            for writer in writers:
                writer.result()
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        sidecar.start()
        with new_channel(sidecar.target) as afterwards:
            assert acknowledged <= set(SessionCalls(afterwards, session_id).get_session(timeout=30).fields)


def test_health_reports_the_shutdown() -> None:
    """After SIGTERM, health is NOT_SERVING before connections close, so that load balancers can react."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        statuses: list[int] = []
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())

        def collect() -> None:
            try:
                statuses.extend(response.status for response in watch)
            except grpc.RpcError:
                return

        watcher = threading.Thread(target=collect)
        watcher.start()
        eventually(lambda: statuses)
        assert sidecar.terminate() == 0
        watcher.join(10)
        assert statuses == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
