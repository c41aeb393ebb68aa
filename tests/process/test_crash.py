"""Crashes of the sidecar and its store lose no acknowledged write and leave no process behind."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import WRITE_OUTCOME_ACCEPTED, WRITE_OUTCOME_DUPLICATE
from session_notes.v1.turn_pb2 import Turn

from tests.stores import is_alive
from tests.support import CANARY, SessionCalls, Sidecar, eventually, new_channel, new_session_id, status_of

SERVING = 1


@dataclass
class Load:
    """Writes during a crash, and their outcomes.

    Attributes:
        fields: Acknowledged fields.
        texts: Texts of acknowledged turns.
        runs: Acknowledged runs.
        codes: The status codes of all writes.
    """

    fields: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    codes: set[grpc.StatusCode] = field(default_factory=set)

    @property
    def acknowledged(self) -> int:
        """The number of acknowledged writes."""
        return len(self.fields) + len(self.texts) + len(self.runs)

    def check(self, session: SessionCalls) -> None:
        """Assert that every acknowledged write is stored once."""
        stored = session.get_session(include_turns=True, timeout=30)
        assert self.fields <= set(stored.fields)
        texts = [turn.text for turn in stored.turns]
        assert self.texts <= set(texts)
        assert len(texts) == len(set(texts)) == stored.turn_count
        for run_id in self.runs:
            assert session.write_notes(run_id, run_id).outcome == WRITE_OUTCOME_DUPLICATE
        assert self.codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@contextmanager
def write_load(session: SessionCalls, writers: int = 6) -> Iterator[Load]:
    """Write fields, turns and notes from many threads during the block."""
    load, numbers, stopped, prefix = Load(), count(1), threading.Event(), new_session_id()[-8:]

    def write(kind: int) -> None:
        while not stopped.is_set():
            name = f"{prefix}-{next(numbers)}"
            calls: list[tuple[Callable[[], object], set[str]]] = [
                (lambda: session.update_session(set={name: CANARY}, timeout=5), load.fields),  # noqa: B023
                (lambda: session.append_turns([Turn(text=name)], timeout=5), load.texts),  # noqa: B023
                (lambda: session.write_notes(name, name, timeout=5), load.runs),  # noqa: B023
            ]
            call, acknowledged = calls[kind]
            code = status_of(call)
            load.codes.add(code)
            if code == grpc.StatusCode.OK:
                acknowledged.add(name)
            else:
                stopped.wait(0.02)  # As a client does. Immediate retries would take all CPU from the sidecar.

    with ThreadPoolExecutor(writers) as pool:
        running = [pool.submit(write, index % 3) for index in range(writers)]
        try:
            yield load
        finally:
            stopped.set()
        for writer in running:
            writer.result()


@contextmanager
def new_connection(sidecar: Sidecar, session_id: str) -> Iterator[SessionCalls]:
    """Make calls over a new connection. An existing one may still be waiting for its next connection attempt."""
    with new_channel(sidecar.target) as channel:
        yield SessionCalls(channel, session_id)


def test_a_killed_sidecar_loses_nothing(session_id: str) -> None:
    """After SIGKILL under load and a restart on the same data directory, every acknowledged write is stored once."""
    with Sidecar() as sidecar:
        for _ in range(3):
            with new_connection(sidecar, session_id) as session, write_load(session) as load:
                eventually(lambda load=load: load.acknowledged > 150, 30)  # type: ignore[misc]
                sidecar.kill()
            sidecar.start()
            with new_connection(sidecar, session_id) as calls:
                load.check(calls)


def test_a_store_left_behind_is_taken_over() -> None:
    """A store left behind by a killed sidecar is replaced: there are never two, and none after SIGTERM."""
    with Sidecar() as sidecar:
        pids = set(sidecar.store_pids())
        for _ in range(3):
            sidecar.kill()
            sidecar.start()
            eventually(lambda: len(sidecar.store_pids()) == 1)
            pids.update(sidecar.store_pids())
        assert sidecar.terminate() == 0
        assert not [pid for pid in pids if is_alive(pid)]


def test_a_killed_store_comes_back_with_its_data(session_id: str) -> None:
    """The sidecar restarts a killed store, and no acknowledged write is lost."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        for _ in range(2):
            with write_load(session) as load:
                eventually(lambda load=load: load.acknowledged > 150, 30)  # type: ignore[misc]
                (pid,) = sidecar.store_pids()
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
                before = load.acknowledged
                eventually(lambda load=load, before=before: load.acknowledged > before + 50, 30)  # type: ignore[misc]
            with new_connection(sidecar, session_id) as calls:
                load.check(calls)
            eventually(lambda: sidecar.health() == SERVING)
        assert sidecar.running
        assert len(sidecar.store_pids()) == 1


def test_a_killed_store_is_unavailable_not_empty(session_id: str) -> None:
    """While the embedded store does not run, reads are UNAVAILABLE, and never empty."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        session.write_notes("run-1", "said")
        (pid,) = sidecar.store_pids()
        os.kill(pid, signal.SIGKILL)
        responses = []

        def answered() -> bool:
            code = status_of(lambda: responses.append(session.get_notes()))
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
            return code == grpc.StatusCode.OK

        eventually(answered, 30)
        assert responses[0].notes.summary == "said"


def test_data_outlives_a_restart(session_id: str) -> None:
    """After SIGTERM and a restart, sessions, runs, run numbers and expiries are unchanged."""
    with Sidecar() as sidecar:
        with new_connection(sidecar, session_id) as session:
            session.update_session(set={"a": 1})
            session.append_turns(3)
            session.write_notes("run-1", "said")
        before, expiries = sidecar.store.dump(session_id), sidecar.store.expiries_ms(session_id)
        sidecar.restart()
        assert sidecar.store.dump(session_id) == before
        after = sidecar.store.expiries_ms(session_id)
        assert after.keys() == expiries.keys()
        assert all(abs(after[key] - expiries[key]) <= 2 for key in after)
        with new_connection(sidecar, session_id) as session:
            assert session.write_notes("run-1", "said").outcome == WRITE_OUTCOME_DUPLICATE
            second = session.write_notes("run-2")
        assert (second.outcome, second.run.number) == (WRITE_OUTCOME_ACCEPTED, 2)


def test_a_deletion_outlives_a_crash(session_id: str) -> None:
    """A session stays deleted if the sidecar and its store are killed afterwards."""
    with Sidecar() as sidecar:
        with new_connection(sidecar, session_id) as session:
            session.write_notes("run-1", "said")
            session.delete()
        pids = sidecar.store_pids()
        sidecar.kill()
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
        sidecar.start()
        with new_connection(sidecar, session_id) as session:
            assert session.get_notes().ready is False
            assert status_of(lambda: session.write_notes("run-1", "said")) == grpc.StatusCode.FAILED_PRECONDITION


def test_a_broken_append_only_file_is_repaired(session_id: str) -> None:
    """If the append-only file ends in garbage, the sidecar starts with the data before it, and logs the loss."""
    with Sidecar() as sidecar:
        with new_connection(sidecar, session_id) as session:
            session.append_turns(3)
        sidecar.terminate()
        files = sidecar.data_dir / "appendonlydir"
        path = max(files.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime_ns)
        with path.open("ab") as file:
            file.write(b"*1\r\n$rubbish\r\n" + b"x" * 1000)
        sidecar.start()
        assert "its last 1014 bytes could not be read and are lost" in sidecar.log
        with new_connection(sidecar, session_id) as session:
            assert session.append_turns(1) == 4


def test_a_store_that_cannot_start_is_restarted_with_backoff() -> None:
    """Each restart of a store that cannot run logs the cause, after a pause that doubles each time."""
    with Sidecar() as sidecar:
        sidecar.terminate()
        (base,) = (sidecar.data_dir / "appendonlydir").glob("*.base.rdb")
        base.write_bytes(base.read_bytes()[:-20])
        with Sidecar(data_dir=sidecar.data_dir, wait=False) as broken:
            eventually(lambda: broken.log.count("ended by itself") >= 4)
            outcome = "exit code 1: the base of its append-only file is broken); restarting it in"
            assert re.findall(re.escape(outcome) + r" (\d\.\d) s", broken.log)[:4] == ["0.2", "0.4", "0.8", "1.6"]


def write(files: Path, pattern: str, content: bytes) -> None:
    (path,) = files.glob(pattern)
    path.write_bytes(content)


def replace_by_file(files: Path) -> None:
    shutil.rmtree(files)
    files.write_text("a file")


DEFECTS: dict[str, Callable[[Path], object]] = {
    "the manifest of its append-only file is broken": lambda files: write(files, "appendonly.aof.manifest", b"rubbish"),
    "the base of its append-only file is broken": lambda files: write(files, "*.base.rdb", b"REDIS0011"),
    "its files were written by a newer version": lambda files: write(files, "*.base.rdb", b"REDIS0999"),
    "a part of its append-only file is missing": lambda files: next(files.glob("*.base.rdb")).unlink(),
    "one of its files is a directory, or its directory is a file": replace_by_file,
    "it cannot listen on its unix socket in the data directory": lambda files: (files.parent / "valkey.sock").mkdir(),
}


@pytest.fixture(scope="module")
def stopped() -> Iterator[Sidecar]:
    """A sidecar that was shut down, with data."""
    with Sidecar() as sidecar:
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).append_turns(1)
        sidecar.terminate()
        yield sidecar


@pytest.mark.parametrize("cause", DEFECTS)
def test_a_lasting_cause_is_logged_once(cause: str, stopped: Sidecar) -> None:
    """A cause that a restart cannot fix is logged once, with the path of the store's own log."""
    data = stopped.data_dir.with_name(f"d{[*DEFECTS].index(cause)}")
    shutil.copytree(stopped.data_dir, data)
    DEFECTS[cause](data / "appendonlydir")
    with Sidecar(data_dir=data, wait=False) as broken:
        eventually(lambda: broken.log.count(f"(exit code 1: {cause}); restarting it") >= 2)
        line = f"cannot run until this is fixed: {cause}; its own log is {data}/valkey.log"
        assert broken.log.count(line) == 1
        assert broken.health() != SERVING


def test_the_signal_that_killed_a_store_is_logged() -> None:
    """The log names the signal that ended a store."""
    with Sidecar() as sidecar:
        (pid,) = sidecar.store_pids()
        os.kill(pid, signal.SIGSEGV)
        eventually(lambda: "ended by itself (exit code -11: ended by Segmentation fault)" in sidecar.log)
