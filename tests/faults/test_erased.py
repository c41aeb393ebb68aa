"""Erased is erased: what was deleted is in no file of the embedded store, whatever happens meanwhile."""

import asyncio
import os
import resource
import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from session_notes.v1.notes_pb2 import Issue
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.embedded import erasure
from session_notes_server.embedded.valkey import EmbeddedValkey
from session_notes_server.settings import ERASED_WITHIN

from tests.stores import is_alive
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, struct

# Each short and of its own, so that the store's compression of its files hides none of them.
WHERE = ("summary", "extra", "issue", "suggestion", "coverage", "turn", "speaker", "field", "text", "reason", "before")


def write_everywhere(session: SessionCalls) -> set[str]:
    """Write a text of its own wherever something can be said → all of them."""
    said = {where: f"{os.urandom(5).hex()}-{where}" for where in WHERE}
    content = notes(said["summary"], follow_up_suggestions=[said["suggestion"]], coverage={said["coverage"]: 1.0})
    content.issues.append(Issue(text=said["issue"]))
    content.extra.CopyFrom(struct({"said": said["extra"]}))
    session.append_turns([Turn(speaker=said["speaker"], text=said["turn"])])
    session.update_session(set={"name": said["before"]})
    session.update_session(set={"name": said["text"], said["field"]: True})
    session.begin_run("run-1")
    session.write_notes("run-1", content)
    session.begin_run("run-2")
    session.fail_run("run-2", reason=said["reason"])
    return set(said.values())


def found(data_dir: Path, texts: Iterable[str]) -> set[str]:
    """Which of the texts any file of the data directory holds, read as it is on disk, whatever it is called."""
    there = set()
    for path in data_dir.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                content = path.read_bytes()
                there |= {text for text in texts if text.encode() in content}
    return there


def erased_in_time(data_dir: Path, texts: Iterable[str]) -> None:
    """Asserts that none of the texts is in a file within the time the sidecar promises."""
    eventually(lambda: not found(data_dir, texts), ERASED_WITHIN.total_seconds())


@contextmanager
def calls(sidecar: Sidecar, session_id: str | None = None) -> Iterator[SessionCalls]:
    """Calls over a new connection, on a new session."""
    with new_channel(sidecar.target) as channel:
        yield SessionCalls(channel, session_id or new_session_id())


def rewrites(sidecar: Sidecar) -> int:
    """How often the store has begun to rewrite its file since its start."""
    return int(sidecar.store.client.info("persistence")["aof_rewrites"])


def is_rewriting(sidecar: Sidecar) -> bool:
    """Whether the store is at it."""
    return bool(sidecar.store.client.info("persistence")["aof_rewrite_in_progress"])


def at_rest(sidecar: Sidecar, after: int = 1) -> None:
    """Wait for so many rewrites to be over: the first follows every start."""
    eventually(lambda: rewrites(sidecar) >= after and not is_rewriting(sidecar))


@contextmanager
def slow_rewrites(sidecar: Sidecar, seconds_a_key: float) -> Iterator[None]:
    """Rewrites that take their time: within the block there is one to catch, or to be too late for."""
    client: Any = sidecar.store.client
    client.config_set("rdb-key-save-delay", int(seconds_a_key * 1e6))
    yield
    with suppress(Exception):
        client.config_set("rdb-key-save-delay", 0)


def test_what_is_deleted_is_in_no_file() -> None:
    """Everything that can be said is in a file before the deletion, and in none in time after it."""
    with Sidecar() as sidecar, calls(sidecar) as session, calls(sidecar) as other:
        at_rest(sidecar)
        said, kept = write_everywhere(session), write_everywhere(other)
        assert found(sidecar.data_dir, said) == said, "the control: it is looked for where it is"
        assert session.delete().existed
        erased_in_time(sidecar.data_dir, said)
        assert other.get_session(include_turns=True).turns[0].text in kept


def test_what_a_rewrite_kept_is_erased_too() -> None:
    """Said long ago, and rewritten by the store since: a deletion takes it out of that file too. Nothing is deleted
    twice for nothing: the session is gone by then, and the deletion is OK."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        at_rest(sidecar)
        said = write_everywhere(session)
        sidecar.store.client.bgrewriteaof()
        at_rest(sidecar, after=2)
        assert found(sidecar.data_dir, said), "the control"
        sidecar.store.client.delete(*sidecar.store.keys(session.id))
        assert not session.delete().existed
        erased_in_time(sidecar.data_dir, said)


def test_a_session_without_runs_leaves_not_even_its_id() -> None:
    """Where no run has to be refused later, the name of the session is in no file either."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        session.append_turns(1)
        assert found(sidecar.data_dir, [session.id])
        session.delete()
        erased_in_time(sidecar.data_dir, [session.id])


def test_killed_right_after_a_deletion() -> None:
    """The sidecar killed before it came to erase: its next start does it, in time."""
    with Sidecar() as sidecar:
        with calls(sidecar) as first, calls(sidecar) as session:
            first.delete()
            at_rest(sidecar)  # In the pause that follows, a deletion has to wait.
            said = write_everywhere(session)
            session.delete()
        pids = sidecar.store_pids()
        sidecar.kill()
        eventually(lambda: not any(map(is_alive, pids)))
        assert found(sidecar.data_dir, said) == said, "the control: it was killed before it erased"
        sidecar.start()
        erased_in_time(sidecar.data_dir, said)


def test_stopped_right_after_a_deletion() -> None:
    """A sidecar that is told to stop erases first, be the store at a rewrite already: it may never be started again."""
    with Sidecar() as sidecar:
        with calls(sidecar) as session, calls(sidecar) as other, slow_rewrites(sidecar, 0.2):
            at_rest(sidecar)
            other.append_turns(1)
            sidecar.store.client.bgrewriteaof()
            said = write_everywhere(session)
            session.delete()
            assert is_rewriting(sidecar), "the control: it was deleted meanwhile"
        assert found(sidecar.data_dir, said) == said
        assert sidecar.terminate() == 0
        assert not found(sidecar.data_dir, said)


def test_a_deletion_during_a_rewrite_has_one_of_its_own() -> None:
    """A rewrite holds what was there when it began: a deletion that comes later is erased by another."""
    with Sidecar() as sidecar, calls(sidecar) as first, calls(sidecar) as session:
        at_rest(sidecar)
        said = write_everywhere(session)
        with slow_rewrites(sidecar, 0.2):
            first.delete()
            eventually(lambda: is_rewriting(sidecar))
            session.delete()
            assert is_rewriting(sidecar), "the control: it was deleted meanwhile"
        eventually(lambda: not is_rewriting(sidecar))
        erased_in_time(sidecar.data_dir, said)


def test_a_stop_erases_what_a_rewrite_just_over_did_not() -> None:
    """Stopped after a rewrite that had begun before the deletion, the sidecar erases before it ends."""
    with Sidecar() as sidecar, calls(sidecar) as first, calls(sidecar) as session:
        at_rest(sidecar)
        said = write_everywhere(session)
        with slow_rewrites(sidecar, 0.2):
            first.delete()
            eventually(lambda: is_rewriting(sidecar))
            session.delete()
            assert is_rewriting(sidecar), "the control: it was deleted meanwhile"
        before = rewrites(sidecar)
        eventually(lambda: not is_rewriting(sidecar))
        assert found(sidecar.data_dir, said)
        # Before the next rewrite, which a pause precedes.
        assert rewrites(sidecar) == before
        assert sidecar.terminate() == 0
        assert not found(sidecar.data_dir, said)


def test_a_rewrite_that_the_store_began_itself_is_not_ours() -> None:
    """The store is at a rewrite of its own accord: the deletion waits for it, and has another."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        at_rest(sidecar)
        said = write_everywhere(session)
        with slow_rewrites(sidecar, 0.2):
            sidecar.store.client.bgrewriteaof()
            eventually(lambda: is_rewriting(sidecar))
            session.delete()
            assert is_rewriting(sidecar)
        erased_in_time(sidecar.data_dir, said)


def test_a_store_killed_in_a_rewrite_leaves_nothing_of_it() -> None:
    """The store, killed while it rewrites, leaves half of a file behind, which nobody would ever remove."""
    with Sidecar() as sidecar, calls(sidecar) as session, calls(sidecar) as other:
        at_rest(sidecar)
        said = write_everywhere(session)
        other.append_turns(1)
        with slow_rewrites(sidecar, 0.1):
            sidecar.store.client.bgrewriteaof()
            eventually(lambda: [*sidecar.data_dir.glob("temp-*")])
            session.delete()
            (pid,) = sidecar.store_pids()
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: sidecar.store_pids() and not is_alive(pid))
        erased_in_time(sidecar.data_dir, said)
        assert not [*sidecar.data_dir.glob("temp-*")]


def test_a_rewrite_that_fails_is_tried_again() -> None:
    """The process that rewrites is killed, as the kernel does when memory is short: the next one does it."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        at_rest(sidecar)
        said = write_everywhere(session)
        (store,) = sidecar.store_pids()
        with slow_rewrites(sidecar, 0.5):
            session.update_session(set={"more": 1})
            with calls(sidecar) as other:
                other.append_turns(1)
                session.delete()
                (child,) = eventually(lambda: children(store))
                os.kill(child, signal.SIGKILL)
                eventually(lambda: not is_alive(child))
        erased_in_time(sidecar.data_dir, said)


def children(pid: int) -> list[int]:
    """The processes a process has forked."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_storm_of_deletions_costs_few_rewrites() -> None:
    """Deletions one after the other share their rewrites: one at once, then one every few seconds."""
    with Sidecar() as sidecar:
        at_rest(sidecar)
        before, began, said, deleted = rewrites(sidecar), time.monotonic(), set[str](), 0
        while time.monotonic() < began + 2 * erasure.PAUSE_SECONDS:
            with calls(sidecar) as session:
                said |= write_everywhere(session)
                session.delete()
                deleted += 1
        erased_in_time(sidecar.data_dir, said)
        seconds = time.monotonic() - began
        assert deleted > 20
        assert rewrites(sidecar) - before <= seconds / erasure.PAUSE_SECONDS + 1


async def test_what_was_replaced_goes_within_the_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody deletes anything, and yet the files are rewritten now and then: what expired or was replaced goes too.

    The hour is a second here.
    """
    monkeypatch.setattr(erasure, "REWRITE_EVERY", timedelta(seconds=1))
    monkeypatch.setattr(erasure, "PAUSE_SECONDS", 0.1)
    with tempfile.TemporaryDirectory(prefix="session-notes-") as folder:
        home = Path(folder)
        store = EmbeddedValkey(home)
        await store.open()
        going = asyncio.create_task(store.erasure.run())
        try:
            # The one that follows the start, which nothing here is to be erased by.
            await asyncio.to_thread(eventually, lambda: store.erasure._done > 0)
            await store.erasure._send("SET name said-and-replaced")
            await store.erasure._send("SET name something-else")
            assert found(home, ["said-and-replaced"])
            await asyncio.to_thread(eventually, lambda: not found(home, ["said-and-replaced"]))
        finally:
            going.cancel()
            await store.close()


@contextmanager
def core_files_allowed() -> Iterator[None]:
    """A machine that has core files written: where it has none, a limit of 0 would be none of our doing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("the hard limit on core files is 0 already")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def may_write_core_files(pid: int) -> bool:
    """Whether a process has a limit on core files other than 0."""
    return resource.prlimit(pid, resource.RLIMIT_CORE)[0] != 0


def test_no_core_files() -> None:
    """Memory holds what users said: neither the sidecar nor its store leaves any in a core file."""
    with core_files_allowed(), Sidecar() as sidecar:
        assert sidecar.process is not None
        assert may_write_core_files(os.getpid()), "the control"
        assert [pid for pid in (sidecar.process.pid, *sidecar.store_pids()) if may_write_core_files(pid)] == []


def test_the_embedded_store_keeps_no_log_of_commands() -> None:
    """The store's logs of slow and of large commands hold their arguments, which are what users said: both are off."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        client = sidecar.store.client
        for name in (
            "commandlog-execution-slower-than",
            "commandlog-request-larger-than",
            "commandlog-reply-larger-than",
        ):
            assert client.config_get(name) == {name: "-1"}
        # By default 1 MiB is large.
        session.append_turns([Turn(speaker="user", text="x" * 60_000)] * 30)
        assert len(session.get_session(include_turns=True).turns) == 30
        for kind in ("slow", "large-request", "large-reply"):
            assert client.execute_command("COMMANDLOG", "LEN", kind) == 0
