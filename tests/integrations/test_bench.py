"""`session-notes bench` as a user runs it, and its sections at sizes that take seconds."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from session_notes import PrimaryClient
from session_notes_tools.bench import (
    contenders,
    dapr,
    footprint,
    goals,
    growth,
    h2load,
    processes,
    rounds,
    scale,
)
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.measurements import Load, Row, Slice
from session_notes_tools.bench.targets import Protocol, Target

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


def test_all_places_are_measured_and_compared(temporary: Path, tmp_path: Path) -> None:
    """One run measures the sidecar on both engines and all contenders, and writes tables, JSON and a plot."""
    done = bench("--results", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert (tmp_path / "results" / "bench.svg").read_text().count("</svg>") == 1
    calls_at = {
        place: {row["call"] for row in document["calls"] if row["place"] == place}
        for place in {row["place"] for row in document["calls"]}
    }
    daprd = calls_at.pop("daprd (tcp)", None)
    fastapi = calls_at.pop("FastAPI and redis-py (tcp)", None)
    assert calls_at == {
        "bare grpc.aio (tcp)": {"Echo"},
        "bare native (tcp)": {"Echo"},
        "session-notes, native (tcp)": {*CALLS, "PrimaryClient.get_notes"},
        "session-notes, native (unix)": {"GetNotes"},
        "session-notes, grpcio (tcp)": {"GetNotes", "WriteNotes", "PrimaryClient.get_notes"},
        "grpc.aio and redis-py (tcp)": {"read", "write"},
        "redis-py, no sidecar": {"read", "read, modify, write"},
    }
    assert daprd == ({"GetState", "SaveState", "DaprClient.get_state"} if shutil.which("daprd") else None)
    assert fastapi == ({"read", "write"} if h2load.find_h2load() else None)
    for row in document["calls"]:
        assert row["calls"] > 0
        assert 0 < row["median_us"] <= row["p99_us"]
        assert (row["server_cpu_us"] is not None) == (row["protocol"] != "redis")
    echo = [row for row in document["calls"] if row["place"] == "bare grpc.aio (tcp)"]
    assert {row["median_us_to_echo"] for row in echo} == {1.0}
    assert [row["engine"] for row in document["engines"]] == ["native", "grpcio"]
    assert all(row["idle_mb"] > 0 for row in document["engines"])
    assert [line.partition(":")[0] for line in document["left_out"]] == [
        *([] if shutil.which("daprd") else ["daprd"]),
        *([] if h2load.find_h2load() else ["h2load"]),
    ]
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
    """A sidecar that requires tokens is measured by Python callers, as are the echoes, since h2load sends no token."""
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o700)
    (tokens / "admin").write_text("a-token\n")
    (tokens / "admin").chmod(0o600)
    with Sidecar(flags=["--tokens-dir", str(tokens)]) as sidecar:
        done = bench("--target", sidecar.target, "--json", SESSION_NOTES_TOKEN="a-token")
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)["calls"]
        assert {*CALLS, "Echo"} == {row["call"] for row in rows}
        assert {row["caller"] for row in rows} == {"python"}
        assert all(row["median_us_to_echo"] > 0 for row in rows)


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
    row, base = Row(target, Load("python", 1)), Row(target, Load("python", 1))
    for slowness in (1.0, 5.0, 1.0, 9.0):
        row.slices.append(Slice([120 * slowness], 1, 60 * slowness, None, None))
        base.slices.append(Slice([100 * slowness], 1, 50 * slowness, None, None))
    assert row.ratio(base, "median_us") == pytest.approx(1.2)
    assert row.ratio(base, "server_cpu_us") == pytest.approx(1.2)
    assert row.ratio(base, "store_cpu_us") is None


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
    alone, both, *_ = await scale.measure_cluster(no_progress, rounds=1, seconds=0.05)
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
    """h2load calls servers if it is on PATH and no token must be sent; otherwise Python callers call those of gRPC."""
    protocols: list[Protocol] = ["grpc", "http", "redis", "client"]
    targets = [Target(protocol, "", "", "", (), protocol=protocol) for protocol in protocols]

    def callers(*more: Target) -> dict[str, list[str]]:
        loads = rounds.loads_for([*targets, *more])
        return {place: [load.caller for target, load in loads if target.place == place] for place in protocols}

    by_h2load = {"grpc": ["h2load"] * 2, "http": ["h2load"] * 2, "redis": ["python"] * 2, "client": ["python"]}
    by_python = by_h2load | {"grpc": ["python"] * 2, "http": []}
    monkeypatch.setattr(rounds, "find_h2load", lambda: "/usr/bin/h2load")
    assert callers() == by_h2load
    assert callers(Target("", "", "", "", (), authenticated=True)) == by_python
    monkeypatch.setattr(rounds, "find_h2load", lambda: None)
    assert callers() == by_python


def test_the_rows_that_a_row_is_compared_with() -> None:
    """A call is compared with the echo of its transport and load, and with its counterparts at daprd and itself."""

    def row(place: str, name: str, in_flight: int = 64) -> Row:
        return Row(Target(place, name, "unix:x" if "unix" in place else "host:1", "/x", ()), Load("h2load", in_flight))

    rows = {
        "echo": row("bare grpc.aio (tcp)", "Echo"),
        "unix": row("bare grpc.aio (unix)", "Echo"),
        "alone": row("bare grpc.aio (tcp)", "Echo", 1),
        "get_state": row("daprd (tcp)", "GetState"),
        "save_state": row("daprd (tcp)", "SaveState"),
        "get_notes": row("session-notes, native (tcp)", "GetNotes"),
    }

    def bases(name: str) -> dict[str, Row]:
        return rounds.base_rows(rows.values(), row("session-notes, native (tcp)", name))

    assert bases("GetNotes") == {"echo": rows["echo"], "daprd": rows["get_state"]}
    assert bases("WriteNotes") == {"echo": rows["echo"], "daprd": rows["save_state"]}
    assert bases("BatchGetNotes") == {"echo": rows["echo"], "get_notes": rows["get_notes"]}


async def test_a_contender_that_does_not_start_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with the end of its output and the log of all of it; without output, with the reason alone."""

    @contextlib.asynccontextmanager
    async def broken() -> AsyncIterator[list[Target]]:
        command = (sys.executable, "-c", "print('first'); raise SystemExit('second')")
        async with processes.server_process(*command, port=free_port()):
            yield []

    @contextlib.asynccontextmanager
    async def missing() -> AsyncIterator[list[Target]]:
        contenders.require_packages("json", "no_such_package")
        yield []

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with contextlib.AsyncExitStack() as stack:
        tested = contenders.Contenders(stack)
        assert await tested.targets("a server", broken()) == ()
        assert await tested.targets("another", missing()) == ()
    (log,) = tmp_path.iterdir()  # noqa: ASYNC240 - nothing else runs in this loop
    assert set(log.read_text().split()) == {"first", "second"}
    assert tested.left_out[0].startswith("a server: exited during startup: ")
    assert tested.left_out[0].endswith(f"; log: {log}")
    assert tested.left_out[1].startswith("another: not installed: no_such_package (in a checkout: pip install")


def test_goals() -> None:
    """A bar is an upper or lower limit and includes it; a missing figure neither meets nor misses it."""
    assert [goals.is_met("≤ 0.35", figure) for figure in (0.35, 0.351, None)] == ["yes", "no", None]
    assert [goals.is_met("≥ 1.1", figure) for figure in (1.1, 1.09)] == ["yes", "no"]
