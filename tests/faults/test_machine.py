"""Failing machines: a full disk, a slow disk, a network link that is down.

The full disk and the network link need root, and the slow disk a C compiler. Without them the tests are skipped.
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
from session_notes_tools.replay.records import WriteKind

from tests.faults.measures import assert_in_time
from tests.faults.recorder import Recorder
from tests.faults.storm import storm
from tests.stores import Store, StoreServer, is_alive, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEFAULTS = ("--notes-timeout", "80ms", "--store-timeout", "1s")
STATUSES = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
HEALTH_SECONDS = 2.0
DISK_BYTES = 4 << 20
MAX_ROUNDS = 20
"""The number of rounds in which the control, which depends on chance, must lose a write."""
COUNTED: tuple[WriteKind, ...] = ("turn", "run")
"""Kinds whose numbers can be read back. A version that was lost with its field is issued again."""
BUSY = "local until_seconds = os.clock() + ARGV[1] repeat until os.clock() >= until_seconds"
"""A script that runs for a number of seconds. (Within a script, the store's own TIME does not advance.)"""


def as_root(*command: str) -> None:
    """Run a command as root, or skip the test if that is not possible."""
    if os.geteuid() != 0 or shutil.which(command[0]) is None:
        pytest.skip(f"needs root and {command[0]}")
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        pytest.skip(f"{' '.join(command)}: {result.stderr.strip()}")


@pytest.fixture
def disk() -> Iterator[Path]:
    """A file system of 4 MiB."""
    folder = Path(tempfile.mkdtemp(prefix="session-notes-disk-"))
    try:
        as_root("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "session-notes-test", str(folder))
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        folder.rmdir()


def has_loaded(store: Store) -> bool:
    """Return whether a store has loaded its data."""
    with suppress(redis.ConnectionError):  # BusyLoading is one of these.
        return bool(store.client.ping())
    return False


def has_rewritten(store: Store, times: int) -> bool:
    """Return whether a store has completed a number of rewrites since it started."""
    persistence = store.client.info("persistence")
    return bool(persistence["aof_rewrites"] >= times and not persistence["aof_rewrite_in_progress"])


def fill(disk: Path, room: int = 0) -> Path:
    """Fill a disk up to a number of free bytes, and return the file to remove to make room."""
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
    """On a full disk writes are UNAVAILABLE, reads OK and `ready` NOT_SERVING; with room again, no write is lost."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        recorder = Recorder(session.id)
        _fill_for_a_while(disk, sidecar, session, recorder)
        assert recorder.problems(sidecar.store) == []


def test_a_restart_after_a_full_disk(disk: Path) -> None:
    """A restart after a full disk finds every acknowledged write, and a file that was repaired while the store ran."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        # Valkey leaves a hole only in a file that it has rewritten, as it does after every start.
        eventually(lambda: has_rewritten(sidecar.store, 1))
        session = SessionCalls(channel, new_session_id())
        recorder = Recorder(session.id)
        _fill_for_a_while(disk, sidecar, session, recorder)
        sidecar.terminate()
        assert not holes(sidecar)
        sidecar.start()
        assert recorder.problems(sidecar.store) == []
        assert "ended by itself" not in sidecar.log


def test_a_hole_is_repaired_while_the_store_runs(disk: Path) -> None:
    """A hole left by a short failure that the sidecar did not observe is found by the file's size and repaired."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar:
        eventually(lambda: has_rewritten(sidecar.store, 1))
        with paused(sidecar):
            # Part of a page, to leave room for part of the next write.
            sidecar.store.client.set("other", "x" * 1000, ex=600)
            filler = fill(disk)
            eventually(lambda: is_refused(sidecar.store))
            filler.unlink()
            eventually(lambda: can_write(sidecar.store))
            assert holes(sidecar), "the control"
        eventually(lambda: not holes(sidecar))
        assert "cannot write to its disk" not in sidecar.log, "the control: the sidecar did not observe the failure"


def test_the_stores_own_rewrite_is_not_taken_for_a_hole() -> None:
    """Files that a rewrite shrinks while the sidecar compares their size are not mistaken for a hole."""
    with Sidecar() as sidecar, redis.Redis(unix_socket_path=str(sidecar.data_dir / "valkey.sock")) as client:
        eventually(lambda: has_rewritten(sidecar.store, 1))
        for _ in range(3):
            client.set("other", "x" * 100_000, ex=600)
            before = client.info("persistence")["aof_rewrites"]
            eventually(lambda: rewrite_and_stay_busy(client), 30)
            eventually(lambda: has_rewritten(sidecar.store, before + 1), 30)  # noqa: B023
        assert "has a hole" not in sidecar.log


def rewrite_and_stay_busy(client: redis.Redis) -> bool:
    """Start a rewrite in a child process of the store, and keep the store busy until the sidecar has read the sizes.

    The child ends before that, which the store notices before it replies again. Returns False if the sidecar's own
    rewrite is in progress.
    """
    if client.info("persistence")["aof_rewrite_in_progress"]:
        return False
    pipeline = client.pipeline(transaction=False)
    pipeline.bgrewriteaof()
    pipeline.eval(BUSY, 0, 1.3)
    return not isinstance(pipeline.execute(raise_on_error=False)[0], redis.ResponseError)


def test_a_hole_is_repaired_at_the_next_start(disk: Path) -> None:
    """After SIGKILL of sidecar and store with a hole in the file, the next start logs and repairs it without loss."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: has_rewritten(sidecar.store, 1))
        session = SessionCalls(channel, new_session_id())
        recorder = Recorder(session.id)
        filler = _fill_at_the_end(disk, session, recorder)
        with paused(sidecar):
            filler.unlink()
            eventually(lambda: can_write(sidecar.store))
            assert holes(sidecar), "the control"
            kill_both(sidecar)
        sidecar.start()
        assert recorder.problems(sidecar.store) == []
        assert sidecar.log.count("its append-only file is broken") == 1
        assert "no data is lost" in sidecar.log


def test_a_kill_on_a_full_disk_loses_only_what_was_logged(disk: Path) -> None:
    """SIGKILL of sidecar and store on a full disk loses only the last writes, which the log reported as unwritten."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: has_rewritten(sidecar.store, 1))
        session = SessionCalls(channel, new_session_id())
        recorder = Recorder(session.id)
        filler = _fill_at_the_end(disk, session, recorder)
        in_memory = eventually(lambda: re.findall(r"refuses writes: (\d+) bytes", sidecar.log))
        kill_both(sidecar)
        filler.unlink()
        sidecar.start()
        problems = recorder.problems(sidecar.store)
        assert [problem for problem in problems if ": lost: " not in problem] == []
        assert bool(problems) <= (int(in_memory[0]) > 0)
        assert len(problems) < 30
        assert session.append_turns() > 0


def test_no_rewrite_stores_a_pending_write_twice(disk: Path) -> None:
    """A turn that does not fit on the disk is stored once, although a rewrite would fit and would contain it."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        SessionCalls(channel, new_session_id()).delete()
        eventually(lambda: has_rewritten(sidecar.store, 2))
        SessionCalls(channel, new_session_id()).delete()  # Its rewrite must wait, since one has just ended.
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
        stored = session.get_session(include_turns=True)
        assert (len(stored.turns), stored.turn_count) == (1, 1)


def test_a_rewrite_on_a_full_disk_is_followed_by_another(disk: Path) -> None:
    """A turn that the store's own rewrite stored twice on a full disk is stored once after the sidecar's rewrite."""
    with Sidecar(data_dir=disk / "data", flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        eventually(lambda: has_rewritten(sidecar.store, 1))
        session = SessionCalls(channel, new_session_id())
        filler = fill(disk, room=30_000)
        session.append_turns([Turn(text="x" * 60_000)])
        eventually(lambda: "cannot write to its disk" in sidecar.log)
        sidecar.store.client.bgrewriteaof()
        eventually(lambda: has_rewritten(sidecar.store, 2))
        assert not can_write(sidecar.store), "the control"
        filler.unlink()
        eventually(lambda: has_rewritten(sidecar.store, 3))
        kill_both(sidecar)
        sidecar.start()
        stored = session.get_session(include_turns=True)
        assert (len(stored.turns), stored.turn_count) == (1, 1)


def holes(sidecar: Sidecar) -> int:
    """Return the number of NULs in the incremental files. The tests write none."""
    try:
        return sum(path.read_bytes().count(0) for path in (sidecar.data_dir / "appendonlydir").glob("*.incr.aof"))
    except FileNotFoundError:  # A rewrite has replaced one meanwhile.
        return holes(sidecar)


def can_write(store: Store) -> bool:
    """Return whether the store's last write to its file succeeded."""
    return bool(store.client.info("persistence")["aof_last_write_status"] == "ok")


def is_refused(store: Store) -> bool:
    """Return whether the store refuses a write because its disk is full."""
    try:
        store.client.set("other", "x" * 3000, ex=600)
    except redis.ResponseError as error:
        return str(error).startswith("MISCONF")
    return False


@contextmanager
def paused(sidecar: Sidecar) -> Iterator[None]:
    """Stop the sidecar with SIGSTOP, but not its store."""
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGSTOP)
    yield
    sidecar.process.send_signal(signal.SIGCONT)


def kill_both(sidecar: Sidecar) -> None:
    """Kill the store, then the sidecar, which is stopped first so that it cannot restart the store."""
    assert sidecar.process is not None
    sidecar.process.send_signal(signal.SIGSTOP)
    pids = sidecar.store_pids()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    sidecar.kill()
    eventually(lambda: not any(map(is_alive, pids)))


def _fill_at_the_end(disk: Path, session: SessionCalls, recorder: Recorder) -> Path:
    with storm([session], recorder, kinds=COUNTED):
        eventually(lambda: recorder.count("acknowledged") > 30, 30)
        filler = fill(disk)
        eventually(lambda: recorder.count("unknown") > 0, 30)
    return filler


def _fill_for_a_while(disk: Path, sidecar: Sidecar, session: SessionCalls, recorder: Recorder) -> None:
    session.write_notes("before", "written before", observer="other")
    with storm([session], recorder):
        eventually(lambda: recorder.count("acknowledged") > 30, 30)
        filler = fill(disk)
        eventually(lambda: recorder.count("unknown") > 0, 30)
        since = time.monotonic()
        eventually(lambda: sidecar.health("ready") == NOT_SERVING, 2 * HEALTH_SECONDS)
        assert time.monotonic() - since < HEALTH_SECONDS
        assert sidecar.health("live") == SERVING
        with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
            session.append_turns()
        assert session.get_notes(observer="other").notes.summary == "written before"
        filler.unlink()
        before = recorder.count("acknowledged")
        eventually(lambda: recorder.full or recorder.count("acknowledged") > before + 10, 10)
        sidecar.wait_until_serving(HEALTH_SECONDS)
    assert set(recorder.statuses) <= STATUSES
    assert session.get_notes(observer="other").notes.summary == "written before"


def begins_fsync(store: Store) -> bool:
    """Write to a store, and return whether an fsync is in progress."""
    store.client.incr("writes")
    return int(store.client.info("persistence")["aof_pending_bio_fsync"]) > 0


@pytest.mark.parametrize(("policy", "fsync"), [("always", 0.2), ("everysec", 1.2)])
def test_a_store_killed_on_a_slow_disk(
    policy: str, fsync: float, tmp_path: Path, effort: Callable[[int, int], int]
) -> None:
    """SIGKILL of a store with slow fsyncs loses nothing with `appendfsync always`, and something with `everysec`.

    `everysec` is the control, and the setting of the embedded store. While an fsync is in progress, Valkey replies
    before it writes to its file, for up to 2 s.
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
        rounds = effort(1, 20) if policy == "always" else MAX_ROUNDS
        for _ in range(rounds):
            if policy == "everysec" and lost:
                break
            session = SessionCalls(channel, new_session_id())
            recorder = Recorder(session.id)
            if policy == "everysec":
                eventually(lambda: begins_fsync(sidecar.store))
            with storm([session], recorder, kinds=COUNTED):
                eventually(lambda: recorder.count("acknowledged") > 20, 30)  # noqa: B023
                server.kill()
                server.start()
            sidecar.store.close()
            eventually(lambda: has_loaded(sidecar.store))
            sidecar.wait_until_serving()
            problems = recorder.problems(sidecar.store)
            assert [problem for problem in problems if ": lost: " not in problem] == []
            lost += problems
        assert bool(lost) is (policy == "everysec"), lost[:5]


@contextmanager
def two_hosts() -> Iterator[tuple[str, str]]:
    """Yield the names of two connected network namespaces, 10.0.0.1 and 10.0.0.2."""
    names = [f"session-notes-{uuid.uuid4().hex[:6]}" for _ in range(2)]
    with ExitStack() as stack:
        for name in names:
            as_root("ip", "netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=True)
        first, second = names
        as_root("ip", "-n", first, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", second)
        for number, name in enumerate(names, 1):
            as_root("ip", "-n", name, "address", "add", f"10.0.0.{number}/24", "dev", "cable")
            as_root("ip", "-n", name, "link", "set", "cable", "up")
        yield first, second


def test_a_network_link_that_is_down(effort: Callable[[int, int], int]) -> None:
    """With the network down, GetNotes ends in 100 ms and `ready` is NOT_SERVING in 2 s; afterwards nothing is lost."""
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
                    _cut_the_network(sidecar, far, effort(1, 10))
                finally:
                    sidecar.close()
            finally:
                server.kill()


def _cut_the_network(sidecar: Sidecar, far: str, times: int) -> None:
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "written before")

        def series(expected: grpc.StatusCode) -> list[float]:
            durations = []
            for _ in range(10):
                began = time.perf_counter()
                assert status_of(session.get_notes) == expected
                durations.append(time.perf_counter() - began)
            return durations

        for _ in range(times):
            assert_in_time(lambda: series(grpc.StatusCode.OK))
            subprocess.run(["ip", "-n", far, "link", "set", "cable", "down"], check=True)
            assert_in_time(lambda: series(grpc.StatusCode.UNAVAILABLE))
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
                session.append_turns()
            eventually(lambda: sidecar.health("ready") == NOT_SERVING, HEALTH_SECONDS)
            assert sidecar.health("live") == SERVING
            subprocess.run(["ip", "-n", far, "link", "set", "cable", "up"], check=True)
            sidecar.wait_until_serving(2 * HEALTH_SECONDS)
            eventually(lambda: status_of(session.get_notes) == grpc.StatusCode.OK, HEALTH_SECONDS)
            assert session.get_notes().notes.summary == "written before"
            assert session.append_turns() > 0
