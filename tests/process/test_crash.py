"""What a crash costs: nothing that was acknowledged, and no process left over."""

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
class Storm:
    """What writers did while the lights went out."""

    fields: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    runs: set[str] = field(default_factory=set)
    ends: set[grpc.StatusCode] = field(default_factory=set)

    @property
    def acknowledged(self) -> int:
        """How many writes were answered OK."""
        return len(self.fields) + len(self.texts) + len(self.runs)

    def check(self, session: SessionCalls) -> None:
        """Asserts that all that was answered OK is there."""
        found = session.get_session(include_turns=True, timeout=30)
        assert self.fields <= set(found.fields)
        texts = [turn.text for turn in found.turns]
        assert self.texts <= set(texts)
        assert len(texts) == len(set(texts)) == found.turn_count
        for run_id in self.runs:
            assert session.write_notes(run_id, run_id).outcome == WRITE_OUTCOME_DUPLICATE
        assert self.ends <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@contextmanager
def storm(session: SessionCalls, writers: int = 6) -> Iterator[Storm]:
    """Writes of every kind from many threads, until the block ends."""
    done, numbers, stopped, own = Storm(), count(1), threading.Event(), new_session_id()[-8:]

    def write(kind: int) -> None:
        while not stopped.is_set():
            name = f"{own}-{next(numbers)}"
            calls: list[tuple[Callable[[], object], set[str]]] = [
                (lambda: session.update_session(set={name: CANARY}, timeout=5), done.fields),  # noqa: B023
                (lambda: session.append_turns([Turn(text=name)], timeout=5), done.texts),  # noqa: B023
                (lambda: session.write_notes(name, name, timeout=5), done.runs),  # noqa: B023
            ]
            call, kept = calls[kind]
            end = status_of(call)
            done.ends.add(end)
            if end == grpc.StatusCode.OK:
                kept.add(name)
            else:
                stopped.wait(0.02)  # As a client would; threads that ask again at once leave nothing for the sidecar.

    with ThreadPoolExecutor(writers) as pool:
        running = [pool.submit(write, index % 3) for index in range(writers)]
        try:
            yield done
        finally:
            stopped.set()
        for one in running:
            one.result()


@contextmanager
def afresh(sidecar: Sidecar, session_id: str) -> Iterator[SessionCalls]:
    """Calls over a new connection: one from before a crash may still be waiting for its next attempt."""
    with new_channel(sidecar.target) as channel:
        yield SessionCalls(channel, session_id)


def test_a_killed_sidecar_loses_nothing(session_id: str) -> None:
    """SIGKILL in a write storm, restart on the same data directory: all that was acknowledged is there, once."""
    with Sidecar() as sidecar:
        for _ in range(3):
            with afresh(sidecar, session_id) as session, storm(session) as done:
                eventually(lambda done=done: done.acknowledged > 150, 30)  # type: ignore[misc]
                sidecar.kill()
            sidecar.start()
            with afresh(sidecar, session_id) as calls:
                done.check(calls)


def test_a_store_left_behind_is_taken_over() -> None:
    """A store left behind by a killed sidecar is taken over: never two on a data directory, none after SIGTERM."""
    with Sidecar() as sidecar:
        seen = set(sidecar.store_pids())
        for _ in range(3):
            sidecar.kill()
            sidecar.start()
            eventually(lambda: len(sidecar.store_pids()) == 1)
            seen.update(sidecar.store_pids())
        assert sidecar.terminate() == 0
        assert not [pid for pid in seen if is_alive(pid)]


def test_a_killed_store_comes_back_with_its_data(session_id: str) -> None:
    """The embedded store killed: the sidecar heals by itself, and nothing acknowledged is lost."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        for _ in range(2):
            with storm(session) as done:
                eventually(lambda done=done: done.acknowledged > 150, 30)  # type: ignore[misc]
                (pid,) = sidecar.store_pids()
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: not is_alive(pid))  # type: ignore[misc]
                before = done.acknowledged
                eventually(lambda done=done, before=before: done.acknowledged > before + 50, 30)  # type: ignore[misc]
            with afresh(sidecar, session_id) as calls:
                done.check(calls)
            eventually(lambda: sidecar.health() == SERVING)
        assert sidecar.running
        assert len(sidecar.store_pids()) == 1


def test_a_killed_store_is_unavailable_not_empty(session_id: str) -> None:
    """While the embedded store is away, no read answers as if there were nothing."""
    with Sidecar() as sidecar, new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, session_id)
        session.write_notes("run-1", "said")
        (pid,) = sidecar.store_pids()
        os.kill(pid, signal.SIGKILL)
        ends = []

        def answered() -> bool:
            end = status_of(lambda: ends.append(session.get_notes()))
            assert end in (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE)
            return end == grpc.StatusCode.OK

        eventually(answered, 30)
        assert ends[0].notes.summary == "said"


def test_data_outlives_a_restart(session_id: str) -> None:
    """SIGTERM and a new start: sessions, runs and their numbers are as they were, expiries too."""
    with Sidecar() as sidecar:
        with afresh(sidecar, session_id) as session:
            session.update_session(set={"a": 1})
            session.append_turns(3)
            session.write_notes("run-1", "said")
        before, expiries = sidecar.store.dump(session_id), sidecar.store.expiries_ms(session_id)
        sidecar.restart()
        assert sidecar.store.dump(session_id) == before
        after = sidecar.store.expiries_ms(session_id)
        assert after.keys() == expiries.keys()
        assert all(abs(after[key] - expiries[key]) <= 2 for key in after)
        with afresh(sidecar, session_id) as session:
            assert session.write_notes("run-1", "said").outcome == WRITE_OUTCOME_DUPLICATE
            second = session.write_notes("run-2")
        assert (second.outcome, second.run.number) == (WRITE_OUTCOME_ACCEPTED, 2)


def test_a_deletion_outlives_a_crash(session_id: str) -> None:
    """A session deleted, then the sidecar and its store killed: the session stays deleted."""
    with Sidecar() as sidecar:
        with afresh(sidecar, session_id) as session:
            session.write_notes("run-1", "said")
            session.delete()
        pids = sidecar.store_pids()
        sidecar.kill()
        for pid in filter(is_alive, pids):
            os.kill(pid, signal.SIGKILL)
        sidecar.start()
        with afresh(sidecar, session_id) as session:
            assert session.get_notes().ready is False
            assert status_of(lambda: session.write_notes("run-1", "said")) == grpc.StatusCode.FAILED_PRECONDITION


def test_a_store_whose_file_is_broken_comes_up_with_what_can_be_read(session_id: str) -> None:
    """Rubbish in the append-only file: the sidecar comes up with what was written before it, and says what is lost."""
    with Sidecar() as sidecar:
        with afresh(sidecar, session_id) as session:
            session.append_turns(3)
        sidecar.terminate()
        files = sidecar.data_dir / "appendonlydir"
        path = max(files.glob("*.incr.aof"), key=lambda path: path.stat().st_mtime_ns)
        with path.open("ab") as file:
            file.write(b"*1\r\n$rubbish\r\n" + b"x" * 1000)
        sidecar.start()
        assert "its last 1014 bytes could not be read and are lost" in sidecar.log
        with afresh(sidecar, session_id) as session:
            assert session.append_turns(1) == 4


def test_a_store_that_cannot_start_says_why_and_is_not_started_for_ever_at_once() -> None:
    """What nobody can mend: each attempt says why, and waits twice as long as the one before."""
    with Sidecar() as sidecar:
        sidecar.terminate()
        (base,) = (sidecar.data_dir / "appendonlydir").glob("*.base.rdb")
        base.write_bytes(base.read_bytes()[:-20])
        with Sidecar(data_dir=sidecar.data_dir, wait=False) as broken:
            eventually(lambda: broken.log.count("ended by itself") >= 4)
            why = "exit code 1: the base of its append-only file is broken); restarting it in"
            assert re.findall(re.escape(why) + r" (\d\.\d) s", broken.log)[:4] == ["0.2", "0.4", "0.8", "1.6"]


def write(files: Path, pattern: str, content: bytes) -> None:
    (path,) = files.glob(pattern)
    path.write_bytes(content)


def in_the_place(files: Path) -> None:
    shutil.rmtree(files)
    files.write_text("a file")


BREAKS: dict[str, Callable[[Path], object]] = {
    "the manifest of its append-only file is broken": lambda files: write(files, "appendonly.aof.manifest", b"rubbish"),
    "the base of its append-only file is broken": lambda files: write(files, "*.base.rdb", b"REDIS0011"),
    "its files are those of a newer version": lambda files: write(files, "*.base.rdb", b"REDIS0999"),
    "a part of its append-only file is missing": lambda files: next(files.glob("*.base.rdb")).unlink(),
    "there is something else in the place of one of its files": in_the_place,
    "it cannot listen on its unix socket in the data directory": lambda files: (files.parent / "valkey.sock").mkdir(),
}


@pytest.fixture(scope="module")
def stopped() -> Iterator[Sidecar]:
    """A sidecar that has stopped in order, with data."""
    with Sidecar() as sidecar:
        with new_channel(sidecar.target) as channel:
            SessionCalls(channel, new_session_id()).append_turns(1)
        sidecar.terminate()
        yield sidecar


@pytest.mark.parametrize("why", BREAKS)
def test_why_a_store_cannot_start(why: str, stopped: Sidecar) -> None:
    """What does not pass by itself is named, once, with where to look, and is not touched."""
    data = stopped.data_dir.with_name(f"d{[*BREAKS].index(why)}")
    shutil.copytree(stopped.data_dir, data)
    BREAKS[why](data / "appendonlydir")
    with Sidecar(data_dir=data, wait=False) as broken:
        eventually(lambda: broken.log.count(f"(exit code 1: {why}); restarting it") >= 2)
        told = f"cannot run until this is fixed: {why}; its own log is {data}/valkey.log"
        assert broken.log.count(told) == 1
        assert broken.health() != SERVING


def test_a_store_that_was_killed_says_by_what() -> None:
    """A store that a signal ended says which."""
    with Sidecar() as sidecar:
        (pid,) = sidecar.store_pids()
        os.kill(pid, signal.SIGSEGV)
        eventually(lambda: "ended by itself (exit code -11: ended by Segmentation fault)" in sidecar.log)
