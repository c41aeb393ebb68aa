"""A sidecar with several workers behaves like one process: one port, one store, one start and one shutdown."""

import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WriteNotesRequest
from session_notes_server.addresses import AddressError
from session_notes_server.rpc.listening import hold
from session_notes_server.settings import Settings
from session_notes_server.sidecar.worker_process import SERVING as SERVING_MESSAGE

from tests.access.callers import (
    TOKENS,
    Authority,
    encrypted_channel,
    get_notes_code,
    is_serving,
    token_files,
    write_secret,
)
from tests.faults.deleted_data import (
    assert_erased_in_time,
    calls,
    core_files_allowed,
    may_write_core_files,
    rewrites,
    slow_rewrites,
    traces,
    wait_for_rewrites,
    write_everywhere,
)
from tests.refused_starts import SECRET, assert_refused, assert_serving, run_serve
from tests.stores import StoreServer, is_alive, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, free_port, new_channel, new_session_id, notes, status_of
from tests.worker_processes import (
    SERVING,
    WORKERS,
    channel_per_worker,
    children,
    command_line,
    health,
    needs_linux,
    sidecar_with_workers,
    workers,
)

pytestmark = needs_linux


def test_every_worker_answers_on_the_one_port(session_id: str) -> None:
    """The port's connections reach all workers; data written through one is read through the other."""
    with sidecar_with_workers() as sidecar, channel_per_worker(sidecar) as each:
        assert len(each) == 2
        first, second = (SessionCalls(channel, session_id) for channel in each.values())
        first.write_notes("run-1", "said")
        assert second.get_notes().notes.summary == "said"
        assert second.begin_run("run-2").run.number == 2
        assert first.append_turns(1) == 1
        assert second.append_turns(1) == 2
        assert sidecar.log.count(f"listening on {sidecar.target}") == 1


def test_by_default_there_are_no_workers() -> None:
    """By default the started process serves the calls itself, and its only child is the store."""
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        assert children(sidecar.process.pid) == sidecar.store_pids()


def test_workers_share_a_free_port(session_id: str) -> None:
    """With port 0, the workers share the one free port that is chosen."""
    with sidecar_with_workers(flags=["--listen", "127.0.0.1:0"]) as sidecar:
        (sidecar.target,) = eventually(lambda: re.findall("listening on (.*)", sidecar.log)[1:])
        with channel_per_worker(sidecar) as each:
            assert [SessionCalls(channel, session_id).append_turns(1) for channel in each.values()] == [1, 2]


def test_the_first_worker_listens_on_the_unix_socket(session_id: str) -> None:
    """A unix socket has one listener, which is replaced if it is killed, and mode 600."""
    with Sidecar() as home:
        path = home.data_dir.with_name("s")
        with sidecar_with_workers(flags=["--listen", f"unix:{path}"]) as sidecar:
            with new_channel(f"unix:{path}") as channel:
                session = SessionCalls(channel, session_id)
                assert session.append_turns(1) == 1
                before = workers(sidecar)
                os.kill(before[0], signal.SIGKILL)
                eventually(lambda: "worker 1 serves again" in sidecar.log)
                eventually(lambda: health(channel) == SERVING)
                assert session.append_turns(1) == 2
            assert before[1] in workers(sidecar)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            listeners = [row for row in Path("/proc/net/unix").read_text().splitlines() if row.endswith(f" {path}")]
            assert sum(row.split()[3] == "00010000" for row in listeners) == 1
            assert_refused(str(path), ["--listen", f"unix:{path}"])
        assert not path.exists()


def test_calls_in_flight_are_finished_by_every_worker() -> None:
    """After SIGTERM, health is NOT_SERVING, each worker finishes its calls, and no process is left."""
    with (
        StoreServer(valkey_program()) as store,
        sidecar_with_workers(store.url, flags=["--store-timeout", "10s"]) as sidecar,
    ):
        with channel_per_worker(sidecar) as each:
            pids, admin = list(each), sidecar.store.client
            admin.client_pause(60_000, all=False)
            writes = []
            for channel in each.values():
                session = SessionCalls(channel, new_session_id())
                request = WriteNotesRequest(session_id=session.id, run_id="run-1", notes=notes("late"))
                writes.append(session.notes.WriteNotes.future(request, timeout=10))
            eventually(lambda: sum("b" in client["flags"] for client in admin.client_list()) == len(writes))
            assert sidecar.process is not None
            sidecar.process.send_signal(signal.SIGTERM)
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) != SERVING)  # type: ignore[misc]
            admin.client_unpause()
            assert {write.result().outcome for write in writes} == {WRITE_OUTCOME_ACCEPTED}
            assert sidecar.process.wait(10) == 0
        assert not any(map(is_alive, pids))
        assert len(sidecar.store.holding("late")) == len(writes)


def test_calls_under_load_end_ok_or_unavailable(session_id: str) -> None:
    """SIGTERM under load: each call ends OK or UNAVAILABLE, and acknowledged data is found after a restart."""
    with sidecar_with_workers() as sidecar:
        numbers, acknowledged, codes = count(), set[str](), set[grpc.StatusCode]()
        stopped = threading.Event()

        def write() -> None:
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
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
            processes = [*workers(sidecar), *sidecar.store_pids()]
            assert len(processes) == 3
            try:
                assert sidecar.terminate() == 0
            finally:
                stopped.set()
            for writer in writers:
                writer.result()
        assert not any(map(is_alive, processes))
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert "Traceback" not in sidecar.log
        sidecar.start()
        with new_channel(sidecar.target) as afterwards:
            assert acknowledged <= set(SessionCalls(afterwards, session_id).get_session(timeout=30).fields)


def test_workers_leave_the_process_group() -> None:
    """Ctrl-C signals a whole process group, and would end a starting worker with a traceback."""
    with sidecar_with_workers() as sidecar:
        assert sidecar.process is not None
        groups = {os.getpgid(pid) for pid in workers(sidecar)}
        assert os.getpgid(sidecar.process.pid) not in groups


def test_ctrl_c_stops_all_processes() -> None:
    """Ctrl-C, which signals the whole process group, shuts down like SIGTERM."""
    with sidecar_with_workers() as sidecar:
        assert sidecar.process is not None
        processes = [*workers(sidecar), *sidecar.store_pids()]
        os.killpg(sidecar.process.pid, signal.SIGINT)
        assert sidecar.process.wait(10) == 0
        assert not any(map(is_alive, processes))
        assert "Traceback" not in sidecar.log
        assert "by itself" not in sidecar.log


def test_sigterm_to_every_process_is_one_shutdown() -> None:
    """SIGTERM to every process at once, as systemd sends it: no worker is restarted, and the exit code is 0."""
    with StoreServer(valkey_program()) as store, sidecar_with_workers(store.url) as sidecar:
        assert sidecar.process is not None
        for pid in (processes := [*workers(sidecar), sidecar.process.pid]):
            os.kill(pid, signal.SIGTERM)
        assert sidecar.process.wait(10) == 0
        assert not any(map(is_alive, processes))
        assert "by itself" not in sidecar.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_while_workers_start(number: signal.Signals) -> None:
    """A signal that arrives before the workers have installed their handlers still stops them."""
    with sidecar_with_workers() as sidecar:
        assert sidecar.process is not None
        first = workers(sidecar)
        for pid in first:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(set(workers(sidecar)) - set(first)) == 2)
        second = workers(sidecar)
        if number == signal.SIGINT:
            os.killpg(sidecar.process.pid, number)
        else:
            sidecar.process.send_signal(number)
        assert sidecar.process.wait(10) == 0
        assert not any(map(is_alive, second))
        assert "Traceback" not in sidecar.log


def test_a_killed_worker_is_replaced(session_id: str) -> None:
    """A killed worker is restarted and logged, and connections to the other worker are not affected."""
    with sidecar_with_workers() as sidecar, channel_per_worker(sidecar) as each:
        (killed, _), (other, channel) = each.items()
        os.kill(killed, signal.SIGKILL)
        session = SessionCalls(channel, session_id)
        eventually(lambda: session.append_turns(1) and "serves again" in sidecar.log)
        (new,) = set(workers(sidecar)) - {killed, other}
        assert "ended by itself (exit code -9); restarting it in 0.2 s" in sidecar.log
        with channel_per_worker(sidecar) as again:
            assert set(again) == {new, other}
            assert SessionCalls(again[new], session_id).get_session().turn_count >= 1


def test_a_crashing_worker_is_restarted_with_backoff() -> None:
    """A worker that keeps ending at its start is restarted after a pause that doubles each time."""
    with sidecar_with_workers() as sidecar:

        def kill_the_second() -> bool:
            with suppress(IndexError, ProcessLookupError):
                os.kill(workers(sidecar)[1], signal.SIGKILL)
            return all(f"restarting it in {seconds} s" in sidecar.log for seconds in ("0.2", "0.4", "0.8", "1.6"))

        eventually(kill_the_second, 30)


def test_a_killed_supervisor_leaves_no_process(session_id: str) -> None:
    """If the supervisor is killed, workers and store end, and a new sidecar can start at once."""
    with sidecar_with_workers() as sidecar:
        processes = [*workers(sidecar), *sidecar.store_pids()]
        assert len(processes) == 3
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, session_id).append_turns(1)
        sidecar.kill()
        sidecar.start()  # At once, as a service manager may do.
        eventually(lambda: not any(map(is_alive, processes)))
        with new_channel(sidecar.target) as channel:
            assert SessionCalls(channel, session_id).append_turns(1) == 2


def test_a_stopped_worker_does_not_outlive_its_supervisor() -> None:
    """Even a worker stopped by SIGSTOP ends with its supervisor."""
    with sidecar_with_workers() as sidecar:
        (stuck, _) = processes = workers(sidecar)
        os.kill(stuck, signal.SIGSTOP)
        sidecar.kill()
        try:
            eventually(lambda: not any(map(is_alive, processes)))
        finally:
            with suppress(ProcessLookupError):
                os.kill(stuck, signal.SIGKILL)


def test_a_worker_whose_supervisor_died_early_ends() -> None:
    """A worker ends when the socket to its supervisor is closed."""
    supervisor, child = socket.socketpair()
    settings = Settings(listen=(f"127.0.0.1:{free_port()}",), redis_url=f"redis://127.0.0.1:{free_port()}", workers=2)
    command = [sys.executable, "-P", "-m", "session_notes_server.sidecar.worker"]
    with supervisor, child, subprocess.Popen(command, stdin=child.fileno()) as worker:
        child.close()
        try:
            supervisor.sendall(pickle.dumps((1, settings, False, None)))
            assert supervisor.recv(1) == SERVING_MESSAGE
            supervisor.close()
            worker.wait(10)
        finally:
            worker.kill()


@pytest.mark.parametrize(("first", "second"), [("2", "1"), ("2", "2"), ("1", "2")])
def test_another_sidecars_port_is_an_error(first: str, second: str, session_id: str) -> None:
    """A port belongs to one sidecar, whatever the number of workers; a second one is refused."""
    with Sidecar(flags=["--workers", first]) as sidecar:
        text = assert_refused(sidecar.target, ["--listen", sidecar.target, "--workers", second])
        assert "it is in use. Choose another with --listen." in text
        assert "worker" not in text
        assert_serving(sidecar, session_id)


@pytest.mark.parametrize("flags", [[], WORKERS])
def test_a_port_is_held_while_no_worker_listens(flags: list[str], session_id: str) -> None:
    """While no worker runs, no other sidecar can take the port."""
    with sidecar_with_workers() as sidecar:
        assert sidecar.process is not None
        # A stopped supervisor cannot restart them.
        sidecar.process.send_signal(signal.SIGSTOP)
        for pid in workers(sidecar):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not workers(sidecar))
        try:
            assert_refused(sidecar.target, ["--listen", sidecar.target, *flags])
        finally:
            sidecar.process.send_signal(signal.SIGCONT)
        eventually(lambda: sidecar.log.count("serves again") == 2)
        assert_serving(sidecar, session_id)


def listen_on(port: int, *options: int) -> socket.socket:
    """Listen on a port, with socket options set before it is bound."""
    listener = socket.socket()
    try:
        for option in options:
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def is_refused(attempt: Callable[[], socket.socket]) -> bool:
    try:
        attempt().close()
    except OSError:
        return True
    return False


def test_a_held_port_can_only_be_shared() -> None:
    """A held port accepts no connections and only listeners that share it; once released, it is free again."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    shared = socket.SO_REUSEADDR, socket.SO_REUSEPORT  # As gRPC listens.
    with hold(address, shared=True) as name:
        assert name == address
        assert is_refused(lambda: socket.create_connection(("127.0.0.1", port)))
        for options in ((), (socket.SO_REUSEADDR,)):
            assert is_refused(lambda options=options: listen_on(port, *options))  # type: ignore[misc]
        for _ in range(2):
            with pytest.raises(AddressError), hold(address, shared=True):
                pass
            with listen_on(port, *shared) as worker, socket.create_connection(("127.0.0.1", port)) as client:
                accepted, _ = worker.accept()
                assert is_refused(lambda: listen_on(port, socket.SO_REUSEADDR))
                # The server closes first, which leaves a connection in TIME_WAIT on the port.
                accepted.close()
                assert client.recv(1) == b""
    assert is_refused(lambda: listen_on(port)), "the control: connections in TIME_WAIT block the port"
    with hold(address, shared=True), listen_on(port, *shared):
        pass


def test_a_deletion_through_any_worker_is_erased() -> None:
    """Deleted data is erased from the files in time, whichever worker served the call."""
    with sidecar_with_workers() as sidecar, channel_per_worker(sidecar) as each:
        wait_for_rewrites(sidecar)
        for channel in each.values():
            session = SessionCalls(channel, new_session_id())
            texts = write_everywhere(session)
            # Not all texts, because a rewrite drops replaced data and compresses the rest.
            eventually(lambda texts=texts: traces(sidecar.data_dir, texts))  # type: ignore[misc]
            assert session.delete().existed
            assert_erased_in_time(sidecar.data_dir, texts)


def test_shutdown_right_after_a_deletion() -> None:
    """A sidecar erases deleted data before it stops."""
    with sidecar_with_workers() as sidecar:
        with calls(sidecar) as session, calls(sidecar) as other, slow_rewrites(sidecar, 0.2):
            wait_for_rewrites(sidecar)
            other.append_turns(1)
            sidecar.store.client.bgrewriteaof()
            texts = write_everywhere(session)
            session.delete()
        assert traces(sidecar.data_dir, texts) == texts
        assert sidecar.terminate() == 0
        assert not traces(sidecar.data_dir, texts)


def test_a_worker_killed_during_a_deletion() -> None:
    """A rewrite follows a worker's death, because it may have died before it reported a deletion."""
    with sidecar_with_workers() as sidecar:
        wait_for_rewrites(sidecar)
        before = rewrites(sidecar)
        os.kill(workers(sidecar)[1], signal.SIGKILL)
        eventually(lambda: rewrites(sidecar) > before)


def test_health_follows_the_store_in_every_worker() -> None:
    """Every worker's health follows the store down and up, and the log names the worker."""
    with (
        StoreServer(valkey_program()) as store,
        sidecar_with_workers(store.url) as sidecar,
        channel_per_worker(sidecar) as each,
    ):
        for _ in range(2):
            store.kill()
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) not in (None, SERVING), 5)  # type: ignore[misc]
            store.start()
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) == SERVING, 5)  # type: ignore[misc]
        lines = [line for line in sidecar.log.splitlines() if "SERVING" in line]
        for worker in ("worker 1: ", "worker 2: "):
            assert sum(worker in line for line in lines) == 5
        assert len(lines) == 10


def test_a_start_while_redis_is_down(session_id: str) -> None:
    """Without a store, every worker starts and is NOT_SERVING, and serves once the store runs."""
    port = free_port()
    with sidecar_with_workers(f"redis://127.0.0.1:{port}", wait=False) as sidecar, channel_per_worker(sidecar) as each:
        assert SERVING not in {health(channel) for channel in each.values()}
        with StoreServer(valkey_program(), port=port):
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) == SERVING)  # type: ignore[misc]
            assert [SessionCalls(channel, session_id).append_turns(1) for channel in each.values()] == [1, 2]


def test_tokens_are_reloaded_in_every_worker(tmp_path: Path) -> None:
    """Every worker accepts an added token and rejects a removed one."""
    directory = token_files(tmp_path / "tokens")
    with sidecar_with_workers(flags=["--tokens-dir", str(directory)]) as sidecar, channel_per_worker(sidecar) as each:
        write_secret(directory / "primary", "canary-another")
        for channel in each.values():
            eventually(partial(_has_code, channel, "canary-another", grpc.StatusCode.OK))
            assert _has_code(channel, TOKENS["primary"], grpc.StatusCode.UNAUTHENTICATED)


def _has_code(channel: grpc.Channel, token: str, code: grpc.StatusCode) -> bool:
    return get_notes_code(channel, token) is code


def test_certificates_are_reloaded_in_every_worker(tmp_path: Path) -> None:
    """Every worker serves TLS, and loads a replaced certificate."""
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    served, new = (authority.issue("served", "localhost", "127.0.0.1") for authority in (before, after))
    with sidecar_with_workers(
        flags=["--tls-cert", str(served.cert), "--tls-key", str(served.key)], wait=False
    ) as sidecar:

        def connect(to: Authority, target: str) -> grpc.Channel:
            return encrypted_channel(target, to)

        def is_trusted(by: Authority) -> bool:
            with connect(by, sidecar.target) as channel:
                return is_serving(channel)

        with channel_per_worker(sidecar, partial(connect, before)) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}
        assert not is_trusted(after)
        served.cert.write_bytes(new.cert.read_bytes())
        served.key.write_bytes(new.key.read_bytes())
        eventually(lambda: all(is_trusted(after) for _ in range(10)), 20)
        with channel_per_worker(sidecar, partial(connect, after)) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}


def test_a_restarted_worker_reports_an_unusable_file(tmp_path: Path) -> None:
    """A restarted worker that cannot use a file logs the reason, and serves once the file is fixed."""
    directory = token_files(tmp_path / "tokens")
    with sidecar_with_workers(flags=["--tokens-dir", str(directory)]) as sidecar:
        (directory / "primary").chmod(0o644)
        os.kill(workers(sidecar)[1], signal.SIGKILL)
        eventually(lambda: "restarting it in 0.4 s" in sidecar.log)
        assert re.search(r"worker 2: \S+/primary has mode 0644: .*; run chmod 600", sidecar.log)
        assert "ended by itself (exit code 1)" in sidecar.log
        assert "Traceback" not in sidecar.log
        (directory / "primary").chmod(0o600)
        eventually(lambda: "worker 2 serves again" in sidecar.log)


def test_a_password_is_not_exposed(session_id: str) -> None:
    """The password in a Redis URL is neither in the log nor on a worker's command line."""
    with StoreServer(valkey_program(), ["--requirepass", SECRET]) as store:
        env = {"SESSION_NOTES_REDIS_URL": store.url.replace("redis://", f"redis://:{SECRET}@")}
        with sidecar_with_workers(flags=["--verbose"], env=env) as sidecar, channel_per_worker(sidecar) as each:
            for pid, channel in each.items():
                SessionCalls(channel, session_id).append_turns(1)
                assert SECRET.encode() not in command_line(pid)
            os.kill(workers(sidecar)[1], signal.SIGKILL)
            eventually(lambda: "serves again" in sidecar.log)
            assert SECRET not in sidecar.log


def test_no_core_files() -> None:
    """Workers write no core files, which would contain user data."""
    with core_files_allowed(), sidecar_with_workers() as sidecar:
        assert [pid for pid in workers(sidecar) if may_write_core_files(pid)] == []


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        pytest.param(["--workers", "0"], 2, "--workers", id="no worker"),
        pytest.param(["--workers", "many"], 2, "--workers", id="not a number"),
        pytest.param(["--listen", "unix:/tmp/s", *WORKERS], 2, "one listener", id="only a unix socket"),
        pytest.param(["--listen", "127.0.0.1", *WORKERS], 2, "write host:port", id="no port"),
        pytest.param(["--listen", "0.0.0.0:0", *WORKERS], 2, "--insecure-listen", id="an address for other machines"),
        pytest.param(["--redis-url", "http://localhost", *WORKERS], 2, "redis://", id="a scheme that is not Redis's"),
        pytest.param(["--tls-cert", "pem", *WORKERS], 2, "--tls-key", id="a certificate without its key"),
        pytest.param(["--min-replicas-acked", "1", *WORKERS], 2, "--redis-url", id="replicas of the embedded store"),
        pytest.param(["--tokens-dir", "/no/such", *WORKERS], 1, "/no/such", id="no directory of tokens"),
        pytest.param(["--data-dir", "/dev/null", *WORKERS], 1, "/dev/null", id="a data directory that is a file"),
        pytest.param(["--listen", "192.0.2.1:7", "--insecure-listen", *WORKERS], 1, "192.0.2.1:7", id="foreign"),
    ],
)
def test_a_refused_start(arguments: list[str], code: int, text: str) -> None:
    """A start is refused once, by the supervisor, before any worker is started."""
    assert "worker 1" not in assert_refused(text, arguments, code=code)


def test_an_error_is_the_same_with_workers() -> None:
    """An error reads the same with and without workers."""
    for arguments in (
        ["--tls-cert", "pem"],
        ["--listen", "192.0.2.1:7", "--insecure-listen"],
        ["--data-dir", "/dev/null"],
    ):
        (code, output), (code_with_workers, output_with_workers) = (
            run_serve(*arguments),
            run_serve(*arguments, *WORKERS),
        )
        assert code == code_with_workers
        assert "error: " in output
        assert output.partition("error: ")[2] == output_with_workers.partition("error: ")[2]


def test_a_data_directory_has_one_owner(session_id: str) -> None:
    """A second sidecar on a data directory is refused, with and without workers."""
    with sidecar_with_workers() as sidecar:
        for flags in ([], WORKERS):
            text = assert_refused(str(sidecar.data_dir), ["--data-dir", str(sidecar.data_dir), *flags])
            assert "another sidecar is running" in text
        assert_serving(sidecar, session_id)
