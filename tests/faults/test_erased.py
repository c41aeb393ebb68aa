"""Erasure: deleted data leaves every file of the embedded store, even across crashes and rewrites."""

import asyncio
import os
import signal
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import pytest
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.embedded import erasure
from session_notes_server.embedded.valkey import EmbeddedValkey

from tests.faults.deleted_data import (
    assert_erased_in_time,
    calls,
    core_files_allowed,
    is_rewriting,
    may_write_core_files,
    rewrites,
    slow_rewrites,
    traces,
    wait_for_rewrites,
    write_everywhere,
)
from tests.stores import is_alive
from tests.support import Sidecar, eventually


def test_a_deleted_session_leaves_every_file() -> None:
    """The user data of a session is in a file before its deletion and in none soon after it."""
    with Sidecar() as sidecar, calls(sidecar) as session, calls(sidecar) as other:
        wait_for_rewrites(sidecar)
        texts, kept_texts = write_everywhere(session), write_everywhere(other)
        assert traces(sidecar.data_dir, texts) == texts, "the control: the texts are found before the deletion"
        assert session.delete().existed
        assert_erased_in_time(sidecar.data_dir, texts)
        assert other.get_session(include_turns=True).turns[0].text in kept_texts


def test_a_rewritten_session_is_erased() -> None:
    """A deletion also erases data that an earlier rewrite kept, even if the session no longer exists."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        wait_for_rewrites(sidecar)
        texts = write_everywhere(session)
        sidecar.store.client.bgrewriteaof()
        wait_for_rewrites(sidecar, 2)
        assert traces(sidecar.data_dir, texts), "the control"
        sidecar.store.client.delete(*sidecar.store.keys(session.id))
        assert not session.delete().existed
        assert_erased_in_time(sidecar.data_dir, texts)


def test_a_session_without_runs_leaves_no_id() -> None:
    """Without runs to reject later, a deletion erases even the session's id."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        session.append_turns(1)
        assert traces(sidecar.data_dir, [session.id])
        session.delete()
        assert_erased_in_time(sidecar.data_dir, [session.id])


def test_the_next_start_erases_after_a_kill() -> None:
    """After SIGKILL of the sidecar between deletion and erasure, its next start erases in time."""
    with Sidecar() as sidecar:
        with calls(sidecar) as first, calls(sidecar) as session:
            first.delete()
            wait_for_rewrites(sidecar)  # The next rewrite waits for a pause after this one.
            texts = write_everywhere(session)
            session.delete()
        pids = sidecar.store_pids()
        sidecar.kill()
        eventually(lambda: not any(map(is_alive, pids)))
        assert traces(sidecar.data_dir, texts) == texts, "the control: killed before the erasure"
        sidecar.start()
        assert_erased_in_time(sidecar.data_dir, texts)


def test_a_shutdown_erases_first() -> None:
    """A shutdown erases before it ends, even during a rewrite, since the sidecar may never start again."""
    with Sidecar() as sidecar:
        with calls(sidecar) as session, calls(sidecar) as other, slow_rewrites(sidecar, 0.2):
            wait_for_rewrites(sidecar)
            other.append_turns(1)
            sidecar.store.client.bgrewriteaof()
            texts = write_everywhere(session)
            session.delete()
            assert is_rewriting(sidecar), "the control: deleted during the rewrite"
        assert traces(sidecar.data_dir, texts) == texts
        assert sidecar.terminate() == 0
        assert not traces(sidecar.data_dir, texts)


def test_a_deletion_during_a_rewrite_starts_another() -> None:
    """Data deleted during a rewrite, which stores it once more, is erased by another rewrite."""
    with Sidecar() as sidecar, calls(sidecar) as first, calls(sidecar) as session:
        wait_for_rewrites(sidecar)
        texts = write_everywhere(session)
        with slow_rewrites(sidecar, 0.2):
            first.delete()
            eventually(lambda: is_rewriting(sidecar))
            session.delete()
            assert is_rewriting(sidecar), "the control: deleted during the rewrite"
        eventually(lambda: not is_rewriting(sidecar))
        assert_erased_in_time(sidecar.data_dir, texts)


def test_a_shutdown_erases_what_an_earlier_rewrite_kept() -> None:
    """A shutdown after a rewrite that began before the deletion erases before it ends."""
    with Sidecar() as sidecar, calls(sidecar) as first, calls(sidecar) as session:
        wait_for_rewrites(sidecar)
        texts = write_everywhere(session)
        with slow_rewrites(sidecar, 0.2):
            first.delete()
            eventually(lambda: is_rewriting(sidecar))
            session.delete()
            assert is_rewriting(sidecar), "the control: deleted during the rewrite"
        before = rewrites(sidecar)
        eventually(lambda: not is_rewriting(sidecar))
        assert traces(sidecar.data_dir, texts)
        # The next rewrite is still pending.
        assert rewrites(sidecar) == before
        assert sidecar.terminate() == 0
        assert not traces(sidecar.data_dir, texts)


def test_the_stores_own_rewrite_does_not_count() -> None:
    """Data deleted during a rewrite that the store started itself is erased by another rewrite."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        wait_for_rewrites(sidecar)
        texts = write_everywhere(session)
        with slow_rewrites(sidecar, 0.2):
            sidecar.store.client.bgrewriteaof()
            eventually(lambda: is_rewriting(sidecar))
            session.delete()
            assert is_rewriting(sidecar)
        assert_erased_in_time(sidecar.data_dir, texts)


def test_the_file_of_an_interrupted_rewrite_is_removed() -> None:
    """After SIGKILL of the store during a rewrite, the partial file is removed and the data erased."""
    with Sidecar() as sidecar, calls(sidecar) as session, calls(sidecar) as other:
        wait_for_rewrites(sidecar)
        texts = write_everywhere(session)
        other.append_turns(1)
        with slow_rewrites(sidecar, 0.1):
            sidecar.store.client.bgrewriteaof()
            eventually(lambda: [*sidecar.data_dir.glob("temp-*")])
            session.delete()
            (pid,) = sidecar.store_pids()
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: sidecar.store_pids() and not is_alive(pid))
        assert_erased_in_time(sidecar.data_dir, texts)
        assert not [*sidecar.data_dir.glob("temp-*")]


def test_a_failed_rewrite_is_retried() -> None:
    """After SIGKILL of the rewriting process, as by the kernel for lack of memory, another rewrite erases."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        wait_for_rewrites(sidecar)
        texts = write_everywhere(session)
        (store,) = sidecar.store_pids()
        with slow_rewrites(sidecar, 0.5):
            session.update_session(set={"more": 1})
            with calls(sidecar) as other:
                other.append_turns(1)
                session.delete()
                (child,) = eventually(lambda: children(store))
                os.kill(child, signal.SIGKILL)
                eventually(lambda: not is_alive(child))
        assert_erased_in_time(sidecar.data_dir, texts)


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_many_deletions_share_rewrites() -> None:
    """A series of deletions starts one rewrite at once, then one every few seconds."""
    with Sidecar() as sidecar:
        wait_for_rewrites(sidecar)
        before, began, deleted = rewrites(sidecar), time.monotonic(), list[set[str]]()
        while time.monotonic() < began + 2 * erasure.PAUSE_SECONDS:
            with calls(sidecar) as session:
                deleted.append(write_everywhere(session))
                session.delete()
        # A search for the thousands of texts of all sessions takes seconds before the rewrite, as the files are large.
        assert_erased_in_time(sidecar.data_dir, deleted[-1])
        seconds = time.monotonic() - began
        assert not traces(sidecar.data_dir, set().union(*deleted))
        assert len(deleted) > 20
        assert rewrites(sidecar) - before <= seconds / erasure.PAUSE_SECONDS + 1


async def test_replaced_data_is_erased_within_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any deletion, a rewrite every hour, shortened to a second, erases expired and replaced data."""
    monkeypatch.setattr(erasure, "REWRITE_EVERY", timedelta(seconds=1))
    monkeypatch.setattr(erasure, "PAUSE_SECONDS", 0.1)
    with tempfile.TemporaryDirectory(prefix="session-notes-") as folder:
        home = Path(folder)
        store = EmbeddedValkey(home)
        await store.open()
        task = asyncio.create_task(store.erasure.run())
        try:
            # The rewrite after the start must not be the one that erases.
            await asyncio.to_thread(eventually, lambda: store.erasure._done > 0)
            await store.erasure._send("SET name replaced-text")
            await store.erasure._send("SET name something-else")
            assert traces(home, ["replaced-text"])
            await asyncio.to_thread(eventually, lambda: not traces(home, ["replaced-text"]))
        finally:
            task.cancel()
            await store.close()


def test_no_process_writes_core_files() -> None:
    """Neither the sidecar nor its store may write a core file, which would contain user data."""
    with core_files_allowed(), Sidecar() as sidecar:
        assert sidecar.process is not None
        assert may_write_core_files(os.getpid()), "the control"
        assert [pid for pid in (sidecar.process.pid, *sidecar.store_pids()) if may_write_core_files(pid)] == []


def test_the_embedded_store_logs_no_commands() -> None:
    """The store's logs of slow and large commands, which would contain user data, are off."""
    with Sidecar() as sidecar, calls(sidecar) as session:
        client = sidecar.store.client
        for name in (
            "commandlog-execution-slower-than",
            "commandlog-request-larger-than",
            "commandlog-reply-larger-than",
        ):
            assert client.config_get(name) == {name: "-1"}
        # By default, 1 MiB is logged as large.
        session.append_turns([Turn(speaker="user", text="x" * 60_000)] * 30)
        assert len(session.get_session(include_turns=True).turns) == 30
        for kind in ("slow", "large-request", "large-reply"):
            assert client.execute_command("COMMANDLOG", "LEN", kind) == 0
