"""What a machine does to a sidecar: a full disk, a slow one, a link that is down.

The full disk and the link need root, and are skipped without; the slow disk needs a C compiler.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.embedded.erasure import PAUSE_SECONDS

from tests.faults.history import Final, History, Kind, storm
from tests.faults.test_bounded import in_time
from tests.stores import Store, StoreServer, is_alive, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEFAULTS = ("--notes-timeout", "80ms", "--store-timeout", "1s")
ENDS = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
TELLS_SECONDS = 2.0
DISK_BYTES = 4 << 20
MOST_ROUNDS = 20
"""Until a control that is a matter of chance must have come true."""
COUNTED: tuple[Kind, ...] = ("turn", "run")
"""Kinds whose numbers can be read back: a version that was lost with its field is given out again."""
BUSY = "local until_seconds = os.clock() + ARGV[1] repeat until os.clock() >= until_seconds"
"""A script that takes so many seconds. (The store's own TIME stands still in a script.)"""


def as_root(*command: str) -> None:
    """Runs a command that needs root; skips the test where that is refused."""
    if os.geteuid() != 0 or shutil.which(command[0]) is None:
        pytest.skip(f"needs root and {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A small file system of our own."""
    folder = Path(tempfile.mkdtemp(prefix="session-notes-disk-"))
    try:
        as_root("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "session-notes-test", str(folder))
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()


def answers(store: Store) -> bool:
    """Whether it has loaded what it has."""
    with suppress(redis.ConnectionError):  # BusyLoading is one of these.
        return bool(store.client.ping())
    return False


def rewritten(store: Store, times: int) -> bool:
    """Whether it has rewritten its file so often since it started."""
    persistence = store.client.info("persistence")
    return bool(persistence["aof_rewrites"] >= times and not persistence["aof_rewrite_in_progress"])


def fill(disk: Path, room: int = 0) -> Path:
    """Leaves no room, or so many bytes; the file to remove to make some."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
        file.truncate(file.tell() - room)
    return filler


def test_a_full_disk(disk: Path) -> None:
    """The embedded store's disk is full in a storm: writes are refused, GetNotes answers, `ready` says so, `live` does
    not; with room again writes are back within seconds, and all that was answered is there."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        session, history = SessionCalls(channel, new_session_id()), History()
        _full_for_a_while(disk, sidecar, session, history)
        assert history.faults(Final.of(sidecar.store, session.id)) == []


def test_a_restart_after_a_full_disk(disk: Path) -> None:
    """As above; then the sidecar is restarted, and all that was answered is there still. The file was mended while the
    store served: its next start has nothing to mend."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        # Valkey leaves a hole in a file that it has rewritten, as after every start.
        eventually(lambda: rewritten(sidecar.store, 1))
        session, history = SessionCalls(channel, new_session_id()), History()
        _full_for_a_while(disk, sidecar, session, history)
        sidecar.terminate()
        assert not holes(sidecar)
        sidecar.start()
        assert history.faults(Final.of(sidecar.store, session.id)) == []
        assert "ended by itself" not in sidecar.log


def test_a_hole_goes_while_the_store_serves(disk: Path) -> None:
    """A write failed, and was made good before the sidecar looked: it sees the hole by the file's size and mends it."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar:
        eventually(lambda: rewritten(sidecar.store, 1))
        with paused(sidecar):
            # Part of a page, so that there is room for part of what follows.
            sidecar.store.client.set("other", "x" * 1000, ex=600)
            filler = fill(disk)
            eventually(lambda: is_refused(sidecar.store))
            filler.unlink()
            eventually(lambda: can_write(sidecar.store))
            assert holes(sidecar), "the control"
        eventually(lambda: not holes(sidecar))
        assert "cannot write to its disk" not in sidecar.log, "the control: it did not see the failure itself"


def test_a_rewrite_of_the_stores_own_is_no_hole() -> None:
    """The store ends a rewrite between the sidecar's look at the files and its question to the store, which then has
    smaller files than those: that is no hole."""
    with Sidecar() as sidecar, redis.Redis(unix_socket_path=str(sidecar.data_dir / "valkey.sock")) as client:
        eventually(lambda: rewritten(sidecar.store, 1))
        for times in range(3):
            client.set("other", "x" * 100_000, ex=600)
            # The store begins a rewrite, which another process does, then answers nobody until the sidecar has looked.
            # By then that process is done, and of this the store takes note before it answers.
            begin_and_be_busy = client.pipeline(transaction=False)
            begin_and_be_busy.bgrewriteaof()
            begin_and_be_busy.eval(BUSY, 0, 1.3)
            begin_and_be_busy.execute()
            eventually(lambda times=times: rewritten(sidecar.store, times + 2))  # type: ignore[misc]
        assert "has a hole" not in sidecar.log


def test_killed_before_a_hole_is_mended(disk: Path) -> None:
    """SIGKILL sidecar and store as soon as the disk has room again, the hole being in the file still: the next start
    says so, takes it out, and all that was answered is there."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: rewritten(sidecar.store, 1))
        session, history = SessionCalls(channel, new_session_id()), History()
        filler = _full_at_the_end(disk, session, history)
        with paused(sidecar):
            filler.unlink()
            eventually(lambda: can_write(sidecar.store))
            assert holes(sidecar), "the control"
            kill_both(sidecar)
        sidecar.start()
        assert history.faults(Final.of(sidecar.store, session.id)) == []
        assert sidecar.log.count("its append-only file is broken") == 1
        assert "repaired, nothing is lost" in sidecar.log


def test_killed_while_the_disk_is_full(disk: Path) -> None:
    """SIGKILL sidecar and store while the disk is full, then room, and a start: what is not there was said to be in
    memory alone, and is of the moment in which the disk was found to be full."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: rewritten(sidecar.store, 1))
        session, history = SessionCalls(channel, new_session_id()), History()
        filler = _full_at_the_end(disk, session, history)
        in_memory = eventually(lambda: re.findall(r"refuses writes: (\d+) bytes", sidecar.log))
        kill_both(sidecar)
        filler.unlink()
        sidecar.start()
        faults = history.faults(Final.of(sidecar.store, session.id))
        assert [fault for fault in faults if not fault.startswith("lost:")] == []
        assert bool(faults) <= (int(in_memory[0]) > 0)
        assert len(faults) < 30
        assert session.append_turns() > 0


def test_what_waits_to_be_written_is_not_rewritten(disk: Path) -> None:
    """A turn does not fit on the disk, though a rewrite would: it is stored once, not with the new base and again when
    there is room."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        SessionCalls(channel, new_session_id()).delete()
        eventually(lambda: rewritten(sidecar.store, 2))
        SessionCalls(channel, new_session_id()).delete()  # It has to wait: there was a rewrite just now.
        filler = fill(disk, room=30_000)
        session.append_turns([Turn(text="x" * 60_000)])
        eventually(lambda: not can_write(sidecar.store))
        until = time.monotonic() + 1.5 * PAUSE_SECONDS
        eventually(lambda: time.monotonic() > until)
        with paused(sidecar):
            filler.unlink()
            eventually(lambda: can_write(sidecar.store))
            kill_both(sidecar)
        sidecar.start()
        found = session.get_session(include_turns=True)
        assert (len(found.turns), found.turn_count) == (1, 1)


def test_a_rewrite_on_a_full_disk_is_followed_by_another(disk: Path) -> None:
    """The store rewrites its file of its own accord while it has yet to write a turn, which then is there twice: once
    there is room, a rewrite of ours makes it one."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: rewritten(sidecar.store, 1))
        session = SessionCalls(channel, new_session_id())
        filler = fill(disk, room=30_000)
        session.append_turns([Turn(text="x" * 60_000)])
        eventually(lambda: "cannot write to its disk" in sidecar.log)
        sidecar.store.client.bgrewriteaof()
        eventually(lambda: rewritten(sidecar.store, 2))
        assert not can_write(sidecar.store), "the control"
        filler.unlink()
        eventually(lambda: rewritten(sidecar.store, 3))
        kill_both(sidecar)
        sidecar.start()
        found = session.get_session(include_turns=True)
        assert (len(found.turns), found.turn_count) == (1, 1)


def holes(sidecar: Sidecar) -> int:
    """How many NULs its incremental files hold; what tests write has none."""
    try:
        return sum(path.read_bytes().count(0) for path in (sidecar.data_dir / "appendonlydir").glob("*.incr.aof"))
    except FileNotFoundError:  # A rewrite took the place of one meanwhile.
        return holes(sidecar)


def can_write(store: Store) -> bool:
    """Whether its last write to its file went well."""
    return bool(store.client.info("persistence")["aof_last_write_status"] == "ok")


def is_refused(store: Store) -> bool:
    """Whether it refuses a write, since its disk is full."""
    try:
        store.client.set("other", "x" * 3000, ex=600)
    except redis.ResponseError as error:
        return str(error).startswith("MISCONF")
    return False


@contextmanager
def paused(sidecar: Sidecar) -> Iterator[None]:
    """SIGSTOP the sidecar, not its store."""
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGSTOP)
    yield
    sidecar.process.send_signal(signal.SIGCONT)


def kill_both(sidecar: Sidecar) -> None:
    """SIGKILL the store, then the sidecar, which does not come to start it again."""
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGSTOP)
    pids = sidecar.store_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    sidecar.kill()
    eventually(lambda: not any(map(is_alive, pids)))


def _full_at_the_end(disk: Path, session: SessionCalls, history: History) -> Path:
    with storm([session], history, kinds=COUNTED):
        eventually(lambda: history.count("ok") > 30, 30)
        filler = fill(disk)
        eventually(lambda: history.count("unknown") > 0, 30)
    return filler


def _full_for_a_while(disk: Path, sidecar: Sidecar, session: SessionCalls, history: History) -> None:
    session.write_notes("before", "said before", observer="other")
    with storm([session], history):
        eventually(lambda: history.count("ok") > 30, 30)
        filler = fill(disk)
        eventually(lambda: history.count("unknown") > 0, 30)
        since = time.monotonic()
        eventually(lambda: sidecar.health("ready") == NOT_SERVING, 2 * TELLS_SECONDS)
        assert time.monotonic() - since < TELLS_SECONDS
        assert sidecar.health("live") == SERVING
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append_turns()
        assert session.get_notes(observer="other").notes.summary == "said before"
        filler.unlink()
        before = history.count("ok")
        eventually(lambda: history.full or history.count("ok") > before + 10, 10)
        sidecar.wait_until_serving(TELLS_SECONDS)
    assert set(history.statuses) <= ENDS
    assert session.get_notes(observer="other").notes.summary == "said before"


@pytest.mark.parametrize(("policy", "fsync"), [("always", 0.2), ("everysec", 1.2)])
def test_a_store_that_is_killed_on_a_slow_disk(
    policy: str, fsync: float, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    """SIGKILL the store while each of its fsyncs takes long. With `appendfsync always` nothing acknowledged is lost.

    With `everysec`, the control and the embedded store's setting, there is loss: while an fsync is under way, Valkey
    answers before it writes to its file, for up to 2 s.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on PATH: the disk cannot be made slow")
    shim = tmp_path / "slow_disk.so"
    source = Path(__file__).with_name("slow_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O", "-o", str(shim), str(source)], check=True)
    flags = ("--appendonly", "yes", "--appendfsync", policy)
    env = {"LD_PRELOAD": str(shim), "FSYNC_SECONDS": str(fsync)}
    with (
        StoreServer(valkey_program(), flags, env=env) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        lost: list[str] = []
        rounds = effort(1, 20) if policy == "always" else MOST_ROUNDS
        for _ in range(rounds):
            if policy == "everysec" and lost:
                break
            session, history = SessionCalls(channel, new_session_id()), History()
            with storm([session], history, kinds=COUNTED):
                eventually(lambda: history.count("ok") > 20, 30)  # noqa: B023
                # Into the second fsync at least.
                time.sleep(1.5)
                server.kill()
                server.start()
            sidecar.store.close()
            eventually(lambda: answers(sidecar.store))
            sidecar.wait_until_serving()
            faults = history.faults(Final.of(sidecar.store, session.id))
            assert [one for one in faults if not one.startswith("lost:")] == []
            lost += faults
        assert bool(lost) is (policy == "everysec"), lost[:5]


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them, 10.0.0.1 and 10.0.0.2; their names."""
    names = [f"session-notes-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    with ExitStack() as stack:
        for name in names:
            as_root("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        one, other = names
        as_root("ip", "-n", one, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", other)
        for number, name in enumerate(names, 1):
            as_root("ip", "-n", name, "address", "add", f"10.0.0.{number}/24", "dev", "cable")
            as_root("ip", "-n", name, "link", "set", "cable", "up")
        yield one, other


def test_a_link_that_is_down(effort: Callable[[int, int], int]) -> None:
    """Sidecar and store on two hosts, the link between them set down: GetNotes keeps its 100 ms, `ready` says so within
    2 s; with the link up again all is back within seconds, what was written before included."""
    with two_hosts() as (far, near), tempfile.TemporaryDirectory(prefix="session-notes-link-") as home:
        store = ["ip", "netns", "exec", far, valkey_program(), "--bind", "10.0.0.1", "--port", "6379"]
        store += ["--save", "", "--protected-mode", "no", "--dir", home, "--logfile", f"{home}/store.log"]
        with subprocess.Popen(store) as server:
            try:
                sidecar = Sidecar(
                    "redis://10.0.0.1:6379", flags=DEFAULTS, listen=f"unix:{home}/sidecar.sock", inside=near
                )
                sidecar.start()
                try:
                    _cut_the_link(sidecar, far, effort(1, 10))
                finally:
                    sidecar.close()
            finally:
                server.kill()


def _cut_the_link(sidecar: Sidecar, far: str, times: int) -> None:
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said before")

        def row(expected: grpc.StatusCode) -> list[float]:
            taken = []
            for _ in range(10):
                began = time.perf_counter()
                assert status_of(session.get_notes) == expected
                taken.append(time.perf_counter() - began)
            return taken

        for _ in range(times):
            in_time(lambda: row(grpc.StatusCode.OK))
            subprocess.run(["ip", "-n", far, "link", "set", "cable", "down"], check=True)
            in_time(lambda: row(grpc.StatusCode.UNAVAILABLE))
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
                session.append_turns()
            eventually(lambda: sidecar.health("ready") == NOT_SERVING, TELLS_SECONDS)
            assert sidecar.health("live") == SERVING
            subprocess.run(["ip", "-n", far, "link", "set", "cable", "up"], check=True)
            sidecar.wait_until_serving(2 * TELLS_SECONDS)
            eventually(lambda: status_of(session.get_notes) == grpc.StatusCode.OK, TELLS_SECONDS)
            assert session.get_notes().notes.summary == "said before"
            assert session.append_turns() > 0
