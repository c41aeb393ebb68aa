"""`session-notes bench` as a user runs it, and its sections at sizes that take seconds."""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from session_notes import PrimaryClient
from session_notes_tools.bench import dapr, footprint, growth, h2load, rounds, scale
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.measurements import Load, Row, Slice
from session_notes_tools.bench.targets import Target

from tests.support import Sidecar, eventually, free_port, program

CALLS = {"GetNotes", "WriteNotes", "BatchGetNotes", "GetSession", "AppendTurns"}
QUICK = ("--rounds", "1", "--slice", "30ms")


def bench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a quick bench."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    command = [*program(), "bench", *QUICK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=inherited | env, timeout=100)


def no_progress(_: str) -> None:
    """Ignore progress."""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for the temporary files of one test, with a path short enough for a unix socket in it."""
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_all_places_are_measured_and_compared_with_the_floor(temporary: Path, tmp_path: Path) -> None:
    """One run measures each call over TCP and a unix socket, the floor and Redis, and writes a table, JSON and plot."""
    done = bench("--results", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert (tmp_path / "results" / "bench.svg").read_text().count("</svg>") == 1
    calls_at = {
        place: {row["call"] for row in document["calls"] if row["place"] == place}
        for place in {row["place"] for row in document["calls"]}
    }
    assert calls_at["session-notes (tcp)"] == calls_at["session-notes (unix)"] == CALLS
    assert calls_at["floor (tcp)"] == calls_at["floor (unix)"] == {"Echo"}
    assert calls_at["floor, sidecar's poller (tcp)"] == {"Echo"}
    assert len(calls_at["redis-py, no sidecar"]) == 2
    for row in document["calls"]:
        assert row["calls"] > 0
        assert 0 < row["median_us"] <= row["p99_us"]
        is_grpc = row["place"].startswith(("session-notes", "floor", "daprd"))
        assert (row["server_cpu_us"] is not None) == is_grpc
    floor = [row for row in document["calls"] if row["place"] == "floor (tcp)"]
    assert {row["median_us_to_floor"] for row in floor} == {1.0}
    assert document["machine"]["packages"]["grpcio"]
    assert "GetNotes" in done.stdout
    assert done.stderr.startswith("warning: each target was called for only 0.03 s in total")
    assert list(temporary.iterdir()) == [], "files were left behind"


def test_a_running_sidecar_is_left_as_it_was(sidecar: Sidecar) -> None:
    """--target measures a running sidecar, including the CPU of the process --pid, and leaves no session."""
    assert sidecar.process is not None
    done = bench("--target", sidecar.target, "--pid", str(sidecar.process.pid), "--json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["calls"] if row["place"].endswith(sidecar.target)]
    assert {row["call"] for row in rows} == CALLS
    assert all(row["server_cpu_us"] is not None for row in rows)
    with PrimaryClient(sidecar.target) as primary:
        assert [s for s in primary.list_sessions() if s.session_id.startswith("bench-")] == []


def test_the_token_of_the_environment_is_sent(tmp_path: Path) -> None:
    """A sidecar that requires tokens is measured by Python callers only, since h2load sends no token."""
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o700)
    (tokens / "admin").write_text("a-token\n")
    (tokens / "admin").chmod(0o600)
    with Sidecar(flags=["--tokens-dir", str(tokens)]) as sidecar:
        done = bench("--target", sidecar.target, "--json", SESSION_NOTES_TOKEN="a-token")
        assert done.returncode == 0, done.stderr
        rows = [row for row in json.loads(done.stdout)["calls"] if row["call"] in CALLS]
        assert {row["caller"] for row in rows} == {"python"}


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["--full", "--target", "127.0.0.1:1"], "--full"),
        (["--pid", "1"], "--pid"),
        (["--pid", "4194305", "--target", "127.0.0.1:1"], "--pid"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_wrong_usage_is_rejected(arguments: list[str], option: str) -> None:
    """Conflicting and meaningless options give exit code 2 and an error that names the option."""
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert option in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_process_outlives_the_bench(temporary: Path, sidecar: Sidecar, number: signal.Signals) -> None:
    """Any signal in the middle of a bench ends its store, its sidecar and its callers; only SIGKILL leaves files."""
    command = [*program(), "bench", "--slice", "100ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        eventually(lambda: len(_processes_of(temporary)) >= 3, 30)
        process.send_signal(number)
        process.wait(30)
    eventually(lambda: not _processes_of(temporary), 30)
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []


def _processes_of(folder: Path) -> list[int]:
    """Return the processes with a folder in their command line or as their working directory."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            in_command = str(folder).encode() in (process / "cmdline").read_bytes()
            if in_command or (process / "cwd").readlink().is_relative_to(folder):
                pids.append(int(process.name))
    return pids


def test_sessions_of_a_killed_bench_expire(sidecar: Sidecar) -> None:
    """A killed bench deletes nothing; its sessions expire within an hour."""
    command = [*program(), "bench", "--target", sidecar.target]
    with PrimaryClient(sidecar.target) as primary:
        before = {s.session_id for s in primary.list_sessions()}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            eventually(lambda: {s.session_id for s in primary.list_sessions()} - before, 30)
            process.kill()
        for session in [s for s in primary.list_sessions() if s.session_id not in before]:
            assert session.expires_in is not None
            assert session.expires_in <= timedelta(hours=1)
            primary.delete_session(session.session_id)


def test_without_permission_to_delete_no_session_is_created(tmp_path: Path) -> None:
    """With an observer's token, which may write but not delete, the bench ends before it creates a session."""
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o700)
    for role in ("observer", "admin"):
        (tokens / role).write_text(f"{role}-token\n")
        (tokens / role).chmod(0o600)
    with Sidecar(flags=["--tokens-dir", str(tokens)]) as sidecar:
        done = bench("--target", sidecar.target, SESSION_NOTES_TOKEN="observer-token")
        assert done.returncode == 7, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        with PrimaryClient(sidecar.target, token="admin-token") as primary:
            assert list(primary.list_sessions()) == []


def test_an_unreachable_sidecar_is_an_error() -> None:
    """The bench reports an unreachable target, and does not hang."""
    done = bench("--target", f"127.0.0.1:{free_port()}")
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: no sidecar answers")


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is slow in some rounds does not change the median ratio."""
    target = Target("", "", "", "/x", (b"",))
    row, floor = Row(target, Load("python", 1)), Row(target, Load("python", 1))
    for slowness in (1.0, 5.0, 1.0, 9.0):
        row.slices.append(Slice([120 * slowness], 1, 60 * slowness, None, None))
        floor.slices.append(Slice([100 * slowness], 1, 50 * slowness, None, None))
    assert row.ratio(floor, "median_us") == pytest.approx(1.2)
    assert row.ratio(floor, "server_cpu_us") == pytest.approx(1.2)
    assert row.ratio(floor, "store_cpu_us") is None


async def test_growth_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dimension has a row for each size and call, compared with the smallest size."""
    monkeypatch.setattr(growth, "SESSIONS", (10, 30))
    monkeypatch.setattr(growth, "NOTES_KIB", (1, 2))
    monkeypatch.setattr(growth, "TURNS", (0, 3))
    monkeypatch.setattr(growth, "GROUP_SIZE", 2)
    rows, memory = await growth.measure_growth(rounds=1, seconds=0.02, seed=1, progress=no_progress)
    for dimension, sizes in (("sessions", {10, 30}), ("KiB of notes", {1, 2}), ("turns", {0, 3}), ("runs", {1, 20})):
        of_dimension = [row for row in rows if row["of"] == dimension]
        assert {row["size"] for row in of_dimension} == sizes
        assert {"GetNotes", "WriteNotes"} <= {row["call"] for row in of_dimension}
        assert all(row["median_to_smallest"] == 1 for row in of_dimension if row["size"] == min(sizes))
    assert [row["sessions"] for row in memory] == [10, 30]


async def test_start_and_import_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start takes time, and the client's own import takes less than the import with its dependencies."""
    monkeypatch.setattr(footprint, "REPEATS", 1)
    rows = await footprint.measure_footprint(no_progress)
    start, whole_import, own_import = [row["median_seconds"] for row in rows]
    assert start > 0
    assert 0 < own_import < whole_import


@pytest.mark.skipif(h2load.find_h2load() is None, reason="h2load is not on PATH")
async def test_workers_and_cluster() -> None:
    """Two workers are compared with one, and two sidecars on a cluster return the same responses."""
    single, double = await scale.measure_workers(no_progress, rounds=1, seconds=0.05)
    assert (single["workers"], double["workers"], single["cpu_to_one_worker"]) == (1, 2, 1.0)
    assert (single["in_flight"], double["in_flight"]) == (64, 128)  # The same load per worker.
    alone, _, both, *_ = await scale.measure_cluster(no_progress, rounds=1, seconds=0.05)
    assert alone["answers_that_differ"] == both["answers_that_differ"] == "0 of 100"


async def test_workers_need_h2load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The section requires h2load, since Python callers would measure themselves."""
    monkeypatch.setattr(h2load, "find_h2load", lambda: None)
    with pytest.raises(BenchError, match="h2load"):
        await scale._measure_in_turn([], rounds=1, seconds=0.1, progress=no_progress)


def test_the_encoding_of_dapr_messages() -> None:
    """Fields of 1, 2 and 300 bytes are encoded as protobuf encodes them."""
    from google.protobuf.wrappers_pb2 import BytesValue

    for size in (1, 2, 300):
        content = b"x" * size
        assert dapr._field(1, content) == BytesValue(value=content).SerializeToString()


def test_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """h2load calls only gRPC servers, and only if it is on PATH."""
    redis, grpc = Target("", "", "", "redis: read", ()), Target("", "", "", "/a/b", ())
    monkeypatch.setattr(rounds, "find_h2load", lambda: "/usr/bin/h2load")
    assert {load.caller for load in rounds.loads_for(redis)} == {"python"}
    assert {load.caller for load in rounds.loads_for(grpc)} == {"python", "h2load"}
    monkeypatch.setattr(rounds, "find_h2load", lambda: None)
    assert {load.caller for load in rounds.loads_for(grpc)} == {"python"}
