"""`session-notes bench` as a person runs it, and what it measures beyond its table, at a size that takes seconds."""

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
from session_notes_tools.bench import growth, load, peers, rounds, scale, start
from session_notes_tools.bench.load import LoadError, Slice, Target
from session_notes_tools.bench.rounds import Load, Row

from tests.support import Sidecar, eventually, free_port, program

CALLS = {"GetNotes", "WriteNotes", "BatchGetNotes", "GetSession", "AppendTurns"}
QUICK = ("--rounds", "1", "--slice", "30ms")


def bench(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("SESSION_NOTES_")}
    command = [*program(), "bench", *QUICK, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=inherited | env, timeout=100)


def nothing(_: str) -> None:
    """Whom the tests tell of progress."""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A place for temporary files that nobody else uses; short, for a unix socket has to fit in."""
    with tempfile.TemporaryDirectory(prefix="sn-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_everything_is_called_and_set_against_the_floor(temporary: Path, tmp_path: Path) -> None:
    """One run: each call over TCP and a unix socket, the floor, and Redis without a sidecar; table, JSON and plot."""
    done = bench("--results", str(tmp_path / "results"))
    assert done.returncode == 0, done.stderr
    told = json.loads((tmp_path / "results" / "bench.json").read_text())
    assert (tmp_path / "results" / "bench.svg").read_text().count("</svg>") == 1
    at = {
        place: {row["call"] for row in told["calls"] if row["place"] == place}
        for place in {row["place"] for row in told["calls"]}
    }
    assert at["session-notes (tcp)"] == at["session-notes (unix)"] == CALLS
    assert at["floor (tcp)"] == at["floor (unix)"] == at["floor, our poller (tcp)"] == {"Echo"}
    assert len(at["redis-py, no sidecar"]) == 2
    for row in told["calls"]:
        assert row["calls"] > 0
        assert 0 < row["median_us"] <= row["p99_us"]
        ours = row["place"].startswith(("session-notes", "floor"))
        assert (row["server_cpu_us"] is not None) == (ours or row["place"].startswith("daprd"))
    floor = [row for row in told["calls"] if row["place"] == "floor (tcp)"]
    assert {row["median_us_to_floor"] for row in floor} == {1.0}
    assert told["machine"]["packages"]["grpcio"]
    assert "GetNotes" in done.stdout
    assert done.stderr.startswith("warning: each was called for 0.03 s in all")
    assert list(temporary.iterdir()) == [], "something is left behind"


def test_a_sidecar_that_runs_already_is_left_as_it_was(sidecar: Sidecar) -> None:
    """--target measures it, with the CPU of the process one names, and leaves no session there."""
    assert sidecar.process is not None
    done = bench("--target", sidecar.target, "--pid", str(sidecar.process.pid), "--json")
    assert done.returncode == 0, done.stderr
    rows = [row for row in json.loads(done.stdout)["calls"] if row["place"].endswith(sidecar.target)]
    assert {row["call"] for row in rows} == CALLS
    assert all(row["server_cpu_us"] is not None for row in rows)
    with PrimaryClient(sidecar.target) as primary:
        assert [one for one in primary.list_sessions() if one.session_id.startswith("bench-")] == []


def test_a_sidecar_that_asks_who_we_are(tmp_path: Path) -> None:
    """The token of the environment is sent along; h2load, which sends none, is left out."""
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o700)
    (tokens / "admin").write_text("a-token\n")
    (tokens / "admin").chmod(0o600)
    with Sidecar(flags=["--tokens-dir", str(tokens)]) as sidecar:
        done = bench("--target", sidecar.target, "--json", SESSION_NOTES_TOKEN="a-token")
        assert done.returncode == 0, done.stderr
        ours = [row for row in json.loads(done.stdout)["calls"] if row["call"] in CALLS]
        assert {row["caller"] for row in ours} == {"python"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--full", "--target", "127.0.0.1:1"], "--full"),
        (["--pid", "1"], "--pid"),
        (["--pid", "4194305", "--target", "127.0.0.1:1"], "--pid"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: list[str], says: str) -> None:
    """Exit code 2, and one line that names the option."""
    done = bench(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_it(temporary: Path, sidecar: Sidecar, number: signal.Signals) -> None:
    """However it is ended in the middle: no store, no sidecar and no caller of its own goes on, in no way."""
    command = [*program(), "bench", "--slice", "100ms"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True) as process:
        eventually(lambda: len(_working_in(temporary)) >= 3, 30)
        process.send_signal(number)
        process.wait(30)
    eventually(lambda: not _working_in(temporary), 30)
    if number != signal.SIGKILL:
        assert list(temporary.iterdir()) == []


def _working_in(folder: Path) -> list[int]:
    """The processes that were told of a folder, or stand in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            told = str(folder).encode() in (process / "cmdline").read_bytes()
            if told or (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


def test_sessions_do_not_outlive_a_killed_bench_for_long(sidecar: Sidecar) -> None:
    """What is killed deletes nothing: its sessions expire within the hour."""
    command = [*program(), "bench", "--target", sidecar.target]
    with PrimaryClient(sidecar.target) as primary:
        before = {one.session_id for one in primary.list_sessions()}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            eventually(lambda: {one.session_id for one in primary.list_sessions()} - before, 30)
            process.kill()
        left = [one for one in primary.list_sessions() if one.session_id not in before]
        for one in left:
            assert one.expires_in is not None
            assert one.expires_in <= timedelta(hours=1)
            primary.delete_session(one.session_id)


def test_whoever_may_not_remove_sessions_makes_none(tmp_path: Path) -> None:
    """An observer may write and not delete: refused before anything is there."""
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


def test_a_sidecar_that_is_not_there() -> None:
    """It says so, and does not hang."""
    done = bench("--target", f"127.0.0.1:{free_port()}")
    assert done.returncode == 4, done.stderr
    assert done.stderr.startswith("error: no sidecar answers")


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that is slow for a while is slow for both: the ratio of what was measured together is what counts."""
    target = Target("", "", "", "/x", (b"",))
    ours, floor = Row(target, Load("python", 1)), Row(target, Load("python", 1))
    for slowness in (1.0, 5.0, 1.0, 9.0):
        ours.slices.append(Slice([120 * slowness], 1, 60 * slowness, None, None))
        floor.slices.append(Slice([100 * slowness], 1, 50 * slowness, None, None))
    assert ours.ratio(floor, "median_us") == pytest.approx(1.2)
    assert ours.ratio(floor, "server_cpu_us") == pytest.approx(1.2)
    assert ours.ratio(floor, "store_cpu_us") is None


async def test_growth_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every dimension has a row for each size and call, compared with its smallest."""
    monkeypatch.setattr(growth, "SESSIONS", (10, 30))
    monkeypatch.setattr(growth, "NOTES_KIB", (1, 2))
    monkeypatch.setattr(growth, "TURNS", (0, 3))
    monkeypatch.setattr(growth, "GROUP", 2)
    grown, memory = await growth.growth(rounds=1, seconds=0.02, seed=1, step=nothing)
    for dimension, sizes in (("sessions", {10, 30}), ("KiB of notes", {1, 2}), ("turns", {0, 3}), ("runs", {1, 20})):
        rows = [row for row in grown if row["of"] == dimension]
        assert {row["size"] for row in rows} == sizes
        assert {"GetNotes", "WriteNotes"} <= {row["call"] for row in rows}
        assert all(row["median_to_smallest"] == 1 for row in rows if row["size"] == min(sizes))
    assert [row["sessions"] for row in memory] == [10, 30]


async def test_what_it_takes_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds to the first answer and of an import, of which ours are a part."""
    monkeypatch.setattr(start, "STARTS", 1)
    first, whole, ours = [row["median_seconds"] for row in await start.footprint(nothing)]
    assert first > 0
    assert 0 < ours < whole


@pytest.mark.skipif(load.h2load() is None, reason="there is no h2load on PATH")
async def test_more_than_one_core_and_more_than_one_sidecar() -> None:
    """Two workers, and two sidecars on a cluster that answer alike."""
    one, two = await scale.workers(nothing, rounds=1, seconds=0.05)
    assert (one["workers"], two["workers"], one["cpu_to_one_worker"]) == (1, 2, 1.0)
    assert (one["in_flight"], two["in_flight"]) == (64, 128)  # Each worker has as much to do.
    alone, _, both, *_ = await scale.two_on_a_cluster(nothing, rounds=1, seconds=0.05)
    assert alone["answers_that_differ"] == both["answers_that_differ"] == "0 of 100"


async def test_without_h2load_workers_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers in Python would measure themselves: it says what is missing instead."""
    monkeypatch.setattr(scale, "h2load", lambda: None)
    with pytest.raises(LoadError, match="h2load"):
        await scale._saturated_in_turn([], rounds=1, seconds=0.1, step=nothing)


def test_dapr_is_spoken_to_as_its_protos_say() -> None:
    """Fields of 1, 2 and 300 bytes, as protobuf's own encoder writes them."""
    from google.protobuf.wrappers_pb2 import BytesValue

    for size in (1, 2, 300):
        content = b"x" * size
        assert peers._field(1, content) == BytesValue(value=content).SerializeToString()


def test_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """h2load calls gRPC servers only, and only where it is."""
    redis, ours = Target("", "", "", "redis: read", ()), Target("", "", "", "/a/b", ())
    monkeypatch.setattr(rounds, "h2load", lambda: "/usr/bin/h2load")
    assert {one.caller for one in rounds.loads_for(redis)} == {"python"}
    assert {one.caller for one in rounds.loads_for(ours)} == {"python", "h2load"}
    monkeypatch.setattr(rounds, "h2load", lambda: None)
    assert {one.caller for one in rounds.loads_for(ours)} == {"python"}
