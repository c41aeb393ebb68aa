"""Several workers are one sidecar: on the same port, over the same store, stopped and refused as one process is."""

import os
import pickle
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WriteNotesRequest
from session_notes_server.addresses import AddressError
from session_notes_server.rpc.listening import hold
from session_notes_server.settings import Settings
from session_notes_server.sidecar.worker_process import SERVING as SERVES

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
from tests.process.test_refused_start import SECRET, refused_with, serve, unharmed
from tests.stores import StoreServer, is_alive, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, free_port, new_channel, new_session_id, notes, status_of

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port's connections")

WORKERS = ["--workers", "2"]
SERVING = health_pb2.HealthCheckResponse.SERVING


@contextmanager
def several(redis_url: str | None = None, *, flags: Sequence[str] = (), **more: Any) -> Iterator[Sidecar]:
    """A sidecar with two workers, both there."""
    with Sidecar(redis_url, flags=[*flags, *WORKERS], **more) as sidecar:
        eventually(lambda: f"listening on {sidecar.target}" in sidecar.log)
        yield sidecar


def workers(sidecar: Sidecar) -> list[int]:
    """The processes that answer its calls."""
    assert sidecar.process is not None
    return [pid for pid in children(sidecar.process.pid) if b"session_notes_server.sidecar.worker" in command_line(pid)]


def children(pid: int) -> list[int]:
    """The processes that a process has started and that are there."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, found) if is_alive(child)]


def command_line(pid: int) -> bytes:
    """A process's command line; of one that has ended there is none."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def connections(pid: int, port: int) -> set[str]:
    """The connections to a port that a process has accepted, by inode."""
    established, accepted = "01", set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (row.split()[column] for column in (1, 3, 9))
            if state == established and int(local.rpartition(":")[2], 16) == port:
                accepted.add(f"socket:[{inode}]")
    held = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            held.add(str(descriptor.readlink()))
    return accepted & held


@contextmanager
def a_channel_each(
    sidecar: Sidecar, connect: Callable[[str], grpc.Channel] = new_channel
) -> Iterator[dict[int, grpc.Channel]]:
    """A connection to each worker, by its process id."""
    port, found = int(sidecar.target.rpartition(":")[2]), dict[int, grpc.Channel]()
    with ExitStack() as stack:
        for _ in range(200):
            pids = workers(sidecar)
            before = {pid: connections(pid, port) for pid in pids}
            channel = stack.enter_context(connect(sidecar.target))
            assert health(channel) is not None
            (answering,) = [pid for pid in pids if connections(pid, port) - before[pid]]
            found.setdefault(answering, channel)
            if len(found) == len(pids) > 1:
                break
        else:
            raise AssertionError(f"200 connections, and all went to {list(found)}")
        yield found


def health(channel: grpc.Channel) -> int | None:
    """What health says over a connection; None where nobody answers."""
    with suppress(grpc.RpcError):
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status)
    return None


def test_every_worker_answers_on_the_one_port(session_id: str) -> None:
    """Connections to the port go to all workers; what is written through one is read through the other."""
    with several() as sidecar, a_channel_each(sidecar) as each:
        assert len(each) == 2
        one, two = (SessionCalls(channel, session_id) for channel in each.values())
        one.write_notes("run-1", "said")
        assert two.get_notes().notes.summary == "said"
        assert two.begin_run("run-2").run.number == 2
        assert one.append_turns(1) == 1
        assert two.append_turns(1) == 2
        assert sidecar.log.count(f"listening on {sidecar.target}") == 1


def test_one_worker_is_one_process() -> None:
    """By default the process that was started answers the calls: beside it there is the store alone."""
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        assert children(sidecar.process.pid) == sidecar.store_pids()


def test_any_free_port_is_the_same_for_all(session_id: str) -> None:
    """With port 0 the workers share the one port that was found."""
    with several(flags=["--listen", "127.0.0.1:0"]) as sidecar:
        found = eventually(lambda: re.findall("listening on (.*)", sidecar.log)[1:])
        (sidecar.target,) = found
        with a_channel_each(sidecar) as each:
            assert [SessionCalls(channel, session_id).append_turns(1) for channel in each.values()] == [1, 2]


def test_a_unix_socket_is_the_first_workers(session_id: str) -> None:
    """A unix socket has one listener, and a new one when that is killed; it is its owner's alone."""
    with Sidecar() as home:
        path = home.data_dir.with_name("s")
        with several(flags=["--listen", f"unix:{path}"]) as sidecar:
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
            refused_with(str(path), ["--listen", f"unix:{path}"])
        assert not path.exists()


def test_calls_in_flight_are_finished_by_every_worker() -> None:
    """SIGTERM: health says it, each worker finishes what it is at, and no process is left."""
    with StoreServer(valkey_program()) as store, several(store.url, flags=["--store-timeout", "10s"]) as sidecar:
        with a_channel_each(sidecar) as each:
            pids, admin = list(each), sidecar.store.client
            admin.client_pause(60_000, all=False)
            writes = []
            for channel in each.values():
                session = SessionCalls(channel, new_session_id())
                request = WriteNotesRequest(session_id=session.id, run_id="run-1", notes=notes("said at last"))
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
        assert len(sidecar.store.holding("said at last")) == len(writes)


def test_in_a_storm_every_call_ends_well(session_id: str) -> None:
    """SIGTERM in a storm over many connections: each call ends OK or UNAVAILABLE; what was OK is there
    afterwards, on the same port."""
    with several() as sidecar:
        numbers, kept, ends = count(), set[str](), set[grpc.StatusCode]()
        stopped = threading.Event()

        def write() -> None:
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
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
            processes = [*workers(sidecar), *sidecar.store_pids()]
            assert len(processes) == 3
            try:
                assert sidecar.terminate() == 0
            finally:
                stopped.set()
            for writer in writers:
                writer.result()
        assert not any(map(is_alive, processes))
        assert ends <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert "Traceback" not in sidecar.log
        sidecar.start()
        with new_channel(sidecar.target) as afterwards:
            assert kept <= set(SessionCalls(afterwards, session_id).get_session(timeout=30).fields)


def test_a_terminal_reaches_the_supervisor_alone() -> None:
    """Ctrl-C goes to a whole process group, also to who is just starting and would end in a traceback."""
    with several() as sidecar:
        assert sidecar.process is not None
        groups = {os.getpgid(pid) for pid in workers(sidecar)}
        assert os.getpgid(sidecar.process.pid) not in groups


def test_ctrl_c_stops_all_of_them() -> None:
    """Ctrl-C, which in a terminal goes to the whole process group, stops it in the same orderly way."""
    with several() as sidecar:
        assert sidecar.process is not None
        processes = [*workers(sidecar), *sidecar.store_pids()]
        os.killpg(sidecar.process.pid, signal.SIGINT)
        assert sidecar.process.wait(10) == 0
        assert not any(map(is_alive, processes))
        assert "Traceback" not in sidecar.log
        assert "by itself" not in sidecar.log


def test_a_signal_to_each_of_them_is_one_stop() -> None:
    """SIGTERM to every process at once, as systemd sends it: nobody is replaced, the status is 0."""
    with StoreServer(valkey_program()) as store, several(store.url) as sidecar:
        assert sidecar.process is not None
        for pid in (processes := [*workers(sidecar), sidecar.process.pid]):
            os.kill(pid, signal.SIGTERM)
        assert sidecar.process.wait(10) == 0
        assert not any(map(is_alive, processes))
        assert "by itself" not in sidecar.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_while_its_workers_start(number: signal.Signals) -> None:
    """A signal, or a Ctrl-C, that comes before the workers know what to do about one is obeyed all the same."""
    with several() as sidecar:
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
    """A worker is killed: those with a connection to another notice nothing, a new one comes, and the log says so."""
    with several() as sidecar, a_channel_each(sidecar) as each:
        (killed, _), (other, channel) = each.items()
        os.kill(killed, signal.SIGKILL)
        session = SessionCalls(channel, session_id)
        eventually(lambda: session.append_turns(1) and "serves again" in sidecar.log)
        (new,) = set(workers(sidecar)) - {killed, other}
        assert "ended by itself (exit code -9); restarting it in 0.2 s" in sidecar.log
        with a_channel_each(sidecar) as again:
            assert set(again) == {new, other}
            assert SessionCalls(again[new], session_id).get_session().turn_count >= 1


def test_a_worker_that_cannot_live_is_started_ever_more_rarely() -> None:
    """What kills every worker at its start costs no busy loop."""
    with several() as sidecar:

        def kill_the_second() -> bool:
            with suppress(IndexError, ProcessLookupError):
                os.kill(workers(sidecar)[1], signal.SIGKILL)
            return all(f"restarting it in {seconds} s" in sidecar.log for seconds in ("0.2", "0.4", "0.8", "1.6"))

        eventually(kill_the_second, 30)


def test_a_killed_supervisor_leaves_nobody_behind(session_id: str) -> None:
    """The supervisor is killed, as by the kernel when memory is short: workers and store end, a new start goes well."""
    with several() as sidecar:
        processes = [*workers(sidecar), *sidecar.store_pids()]
        assert len(processes) == 3
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, session_id).append_turns(1)
        sidecar.kill()
        sidecar.start()  # At once, as its own supervisor may have it.
        eventually(lambda: not any(map(is_alive, processes)))
        with new_channel(sidecar.target) as channel:
            assert SessionCalls(channel, session_id).append_turns(1) == 2


def test_a_stopped_worker_does_not_outlive_its_supervisor() -> None:
    """Not even a worker that does nothing any more stays behind."""
    with several() as sidecar:
        (stuck, _) = processes = workers(sidecar)
        os.kill(stuck, signal.SIGSTOP)
        sidecar.kill()
        try:
            eventually(lambda: not any(map(is_alive, processes)))
        finally:
            with suppress(ProcessLookupError):
                os.kill(stuck, signal.SIGKILL)


def test_a_worker_whose_supervisor_died_early_ends() -> None:
    """A supervisor may die before its worker has asked to be told: the end of their socket tells it."""
    ours, theirs = socket.socketpair()
    settings = Settings(listen=(f"127.0.0.1:{free_port()}",), redis_url=f"redis://127.0.0.1:{free_port()}", workers=2)
    command = [sys.executable, "-P", "-m", "session_notes_server.sidecar.worker"]
    with ours, theirs, subprocess.Popen(command, stdin=theirs.fileno()) as worker:
        theirs.close()
        try:
            ours.sendall(pickle.dumps((1, settings, False, None)))
            assert ours.recv(1) == SERVES
            ours.close()
            worker.wait(10)
        finally:
            worker.kill()


@pytest.mark.parametrize(("first", "second"), [("2", "1"), ("2", "2"), ("1", "2")])
def test_another_sidecars_port_is_an_error(first: str, second: str, session_id: str) -> None:
    """A port is one sidecar's, however many workers each has: another is refused as ever, and the first is unharmed."""
    with Sidecar(flags=["--workers", first]) as sidecar:
        text = refused_with(sidecar.target, ["--listen", sidecar.target, "--workers", second])
        assert "it is in use. Choose another with --listen." in text
        assert "worker" not in text
        unharmed(sidecar, session_id)


@pytest.mark.parametrize("flags", [[], WORKERS])
def test_a_port_is_held_while_no_worker_listens(flags: list[str], session_id: str) -> None:
    """Between a worker's death and the next one the port is nobody else's either."""
    with several() as sidecar:
        assert sidecar.process is not None
        # It cannot start others meanwhile.
        sidecar.process.send_signal(signal.SIGSTOP)
        for pid in workers(sidecar):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: not workers(sidecar))
        try:
            refused_with(sidecar.target, ["--listen", sidecar.target, *flags])
        finally:
            sidecar.process.send_signal(signal.SIGCONT)
        eventually(lambda: sidecar.log.count("serves again") == 2)
        unharmed(sidecar, session_id)


def listening(port: int, *options: int) -> socket.socket:
    """A listener at a port, with options set before it is bound."""
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


def test_who_can_be_at_a_port_that_is_held() -> None:
    """A port that is held takes no connections, and lets in nobody but those who share it; then it is free again."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    shared = socket.SO_REUSEADDR, socket.SO_REUSEPORT  # As gRPC does it.
    with hold(address, shared=True) as name:
        assert name == address
        assert is_refused(lambda: socket.create_connection(("127.0.0.1", port)))
        for options in ((), (socket.SO_REUSEADDR,)):
            assert is_refused(lambda options=options: listening(port, *options))  # type: ignore[misc]
        for _ in range(2):
            with pytest.raises(AddressError), hold(address, shared=True):
                pass
            with listening(port, *shared) as worker, socket.create_connection(("127.0.0.1", port)) as client:
                accepted, _ = worker.accept()
                assert is_refused(lambda: listening(port, socket.SO_REUSEADDR))
                # The server's end is the first to close, and leaves a connection in TIME_WAIT on the port.
                accepted.close()
                assert client.recv(1) == b""
    assert is_refused(lambda: listening(port)), "the control: what is left of connections is in the way"
    with hold(address, shared=True), listening(port, *shared):
        pass


def test_a_deletion_through_any_worker_is_erased() -> None:
    """What was deleted is in no file in time, whichever worker was asked."""
    with several() as sidecar, a_channel_each(sidecar) as each:
        wait_for_rewrites(sidecar)
        for channel in each.values():
            session = SessionCalls(channel, new_session_id())
            said = write_everywhere(session)
            # Not all of it: the store may rewrite its file meanwhile, which drops what was replaced, and compresses.
            eventually(lambda said=said: traces(sidecar.data_dir, said))  # type: ignore[misc]
            assert session.delete().existed
            assert_erased_in_time(sidecar.data_dir, said)


def test_stopped_right_after_a_deletion() -> None:
    """A sidecar that is told to stop erases first."""
    with several() as sidecar:
        with calls(sidecar) as session, calls(sidecar) as other, slow_rewrites(sidecar, 0.2):
            wait_for_rewrites(sidecar)
            other.append_turns(1)
            sidecar.store.client.bgrewriteaof()
            said = write_everywhere(session)
            session.delete()
        assert traces(sidecar.data_dir, said) == said
        assert sidecar.terminate() == 0
        assert not traces(sidecar.data_dir, said)


def test_a_worker_killed_in_a_deletion() -> None:
    """A worker may be killed between a deletion and its word of it: so its death is followed by a rewrite."""
    with several() as sidecar:
        wait_for_rewrites(sidecar)
        before = rewrites(sidecar)
        os.kill(workers(sidecar)[1], signal.SIGKILL)
        eventually(lambda: rewrites(sidecar) > before)


def test_health_follows_the_store_in_every_worker() -> None:
    """Health is the same whichever worker answers, down and up; the log says which of them saw what."""
    with (
        StoreServer(valkey_program()) as store,
        several(store.url) as sidecar,
        a_channel_each(sidecar) as each,
    ):
        for _ in range(2):
            store.kill()
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) not in (None, SERVING), 5)  # type: ignore[misc]
            store.start()
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) == SERVING, 5)  # type: ignore[misc]
        told = [line for line in sidecar.log.splitlines() if "SERVING" in line]
        for worker in ("worker 1: ", "worker 2: "):
            assert sum(worker in line for line in told) == 5
        assert len(told) == 10


def test_it_starts_while_redis_is_down_and_heals(session_id: str) -> None:
    """It starts without a store, all of it NOT_SERVING, and serves once there is one."""
    port = free_port()
    with several(f"redis://127.0.0.1:{port}", wait=False) as sidecar, a_channel_each(sidecar) as each:
        assert SERVING not in {health(channel) for channel in each.values()}
        with StoreServer(valkey_program(), port=port):
            for channel in each.values():
                eventually(lambda channel=channel: health(channel) == SERVING)  # type: ignore[misc]
            assert [SessionCalls(channel, session_id).append_turns(1) for channel in each.values()] == [1, 2]


def test_tokens_are_read_again_in_every_worker(tmp_path: Path) -> None:
    """A token that comes counts with every worker, one that goes with none."""
    directory = token_files(tmp_path / "tokens")
    with several(flags=["--tokens-dir", str(directory)]) as sidecar, a_channel_each(sidecar) as each:
        write_secret(directory / "primary", "canary-another")
        for channel in each.values():
            eventually(partial(_has_code, channel, "canary-another", grpc.StatusCode.OK))
            assert _has_code(channel, TOKENS["primary"], grpc.StatusCode.UNAUTHENTICATED)


def _has_code(channel: grpc.Channel, token: str, code: grpc.StatusCode) -> bool:
    return get_notes_code(channel, token) is code


def test_certificates_are_read_again_in_every_worker(tmp_path: Path) -> None:
    """TLS is every worker's, and a certificate that is replaced is so with each."""
    before, after = Authority(tmp_path / "before"), Authority(tmp_path / "after")
    served, new = (one.issue("served", "localhost", "127.0.0.1") for one in (before, after))
    with several(flags=["--tls-cert", str(served.cert), "--tls-key", str(served.key)], wait=False) as sidecar:

        def connect(to: Authority, target: str) -> grpc.Channel:
            return encrypted_channel(target, to)

        def is_trusted(by: Authority) -> bool:
            with connect(by, sidecar.target) as channel:
                return is_serving(channel)

        with a_channel_each(sidecar, partial(connect, before)) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}
        assert not is_trusted(after)
        served.cert.write_bytes(new.cert.read_bytes())
        served.key.write_bytes(new.key.read_bytes())
        eventually(lambda: all(is_trusted(after) for _ in range(10)), 20)
        with a_channel_each(sidecar, partial(connect, after)) as each:
            assert {health(channel) for channel in each.values()} == {SERVING}


def test_a_new_worker_that_cannot_use_a_file_says_so(tmp_path: Path) -> None:
    """A file that went wrong since the start keeps a new worker from coming: it says why, until that is mended."""
    directory = token_files(tmp_path / "tokens")
    with several(flags=["--tokens-dir", str(directory)]) as sidecar:
        (directory / "primary").chmod(0o644)
        os.kill(workers(sidecar)[1], signal.SIGKILL)
        eventually(lambda: "restarting it in 0.4 s" in sidecar.log)
        assert re.search(r"worker 2: \S+/primary has mode 0644, .*: chmod 600", sidecar.log)
        assert "ended by itself (exit code 1)" in sidecar.log
        assert "Traceback" not in sidecar.log
        (directory / "primary").chmod(0o600)
        eventually(lambda: "worker 2 serves again" in sidecar.log)


def test_a_password_is_seen_nowhere(session_id: str) -> None:
    """The password in a Redis URL is neither in a log nor on a command line that the user did not write."""
    with StoreServer(valkey_program(), ["--requirepass", SECRET]) as store:
        env = {"SESSION_NOTES_REDIS_URL": store.url.replace("redis://", f"redis://:{SECRET}@")}
        with several(flags=["--verbose"], env=env) as sidecar, a_channel_each(sidecar) as each:
            for pid, channel in each.items():
                SessionCalls(channel, session_id).append_turns(1)
                assert SECRET.encode() not in command_line(pid)
            os.kill(workers(sidecar)[1], signal.SIGKILL)
            eventually(lambda: "serves again" in sidecar.log)
            assert SECRET not in sidecar.log


def test_no_core_files() -> None:
    """Nor do workers leave what users said in a core file."""
    with core_files_allowed(), several() as sidecar:
        assert [pid for pid in workers(sidecar) if may_write_core_files(pid)] == []


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(["--workers", "0"], 2, "--workers", id="no worker"),
        pytest.param(["--workers", "many"], 2, "--workers", id="no number"),
        pytest.param(["--listen", "unix:/tmp/s", *WORKERS], 2, "one listener", id="workers with nothing to share"),
        pytest.param(["--listen", "127.0.0.1", *WORKERS], 2, "write host:port", id="no port"),
        pytest.param(["--listen", "0.0.0.0:0", *WORKERS], 2, "--insecure-listen", id="an address for everybody"),
        pytest.param(["--redis-url", "http://localhost", *WORKERS], 2, "redis://", id="a scheme that is no Redis"),
        pytest.param(["--tls-cert", "pem", *WORKERS], 2, "--tls-key", id="a certificate without its key"),
        pytest.param(["--min-replicas-acked", "1", *WORKERS], 2, "--redis-url", id="replicas of a store that has none"),
        pytest.param(["--tokens-dir", "/no/such", *WORKERS], 1, "/no/such", id="no directory of tokens"),
        pytest.param(["--data-dir", "/dev/null", *WORKERS], 1, "/dev/null", id="a data directory that is none"),
        pytest.param(["--listen", "192.0.2.1:7", "--insecure-listen", *WORKERS], 1, "192.0.2.1:7", id="not ours"),
    ],
)
def test_what_one_worker_refuses(arguments: list[str], code: int, said: str) -> None:
    """A start is refused as it is with one worker, once, and before any worker is there."""
    text = refused_with(said, arguments, code=code)
    assert "worker 1" not in text


def test_a_refusal_is_the_same_text() -> None:
    """With workers the error reads as it does without."""
    for arguments in (
        ["--tls-cert", "pem"],
        ["--listen", "192.0.2.1:7", "--insecure-listen"],
        ["--data-dir", "/dev/null"],
    ):
        (one, text), (several, same) = serve(*arguments), serve(*arguments, *WORKERS)
        assert one == several
        assert "error: " in text
        assert text.partition("error: ")[2] == same.partition("error: ")[2]


def test_a_data_directory_has_one_owner(session_id: str) -> None:
    """A second sidecar on a data directory is refused, whoever has the workers."""
    with several() as sidecar:
        for flags in ([], WORKERS):
            text = refused_with(str(sidecar.data_dir), ["--data-dir", str(sidecar.data_dir), *flags])
            assert "another sidecar is running" in text
        unharmed(sidecar, session_id)
