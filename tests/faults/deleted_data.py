"""Traces of deleted sessions: helpers that write user data, and look for it in files and core dumps."""

import os
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from session_notes.v1.notes_pb2 import Issue
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.settings import ERASED_WITHIN

from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, struct

# Each place gets a unique text, too short for the store to compress.
PLACES = ("summary", "extra", "issue", "suggestion", "coverage", "turn", "speaker", "field", "text", "reason", "before")


def write_everywhere(session: SessionCalls) -> set[str]:
    """Write a unique text to every place that takes user data, and return the texts."""
    texts = {place: f"{os.urandom(5).hex()}-{place}" for place in PLACES}
    content = notes(texts["summary"], follow_up_suggestions=[texts["suggestion"]], coverage={texts["coverage"]: 1.0})
    content.issues.append(Issue(text=texts["issue"]))
    content.extra.CopyFrom(struct({"text": texts["extra"]}))
    session.append_turns([Turn(speaker=texts["speaker"], text=texts["turn"])])
    session.update_session(set={"name": texts["before"]})
    session.update_session(set={"name": texts["text"], texts["field"]: True})
    session.begin_run("run-1")
    session.write_notes("run-1", content)
    session.begin_run("run-2")
    session.fail_run("run-2", reason=texts["reason"])
    return set(texts.values())


def traces(data_dir: Path, texts: Iterable[str]) -> set[str]:
    """Return the texts that any file of a data directory contains."""
    present = set()
    for path in data_dir.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                content = path.read_bytes()
                present |= {text for text in texts if text.encode() in content}
    return present


def assert_erased_in_time(data_dir: Path, texts: Iterable[str]) -> None:
    """Assert that no file contains any of the texts within the time that the sidecar promises."""
    eventually(lambda: not traces(data_dir, texts), ERASED_WITHIN.total_seconds())


@contextmanager
def calls(sidecar: Sidecar, session_id: str | None = None) -> Iterator[SessionCalls]:
    """Yield the calls on a session, by default a new one, over a new connection."""
    with new_channel(sidecar.target) as channel:
        yield SessionCalls(channel, session_id or new_session_id())


def rewrites(sidecar: Sidecar) -> int:
    """Return the number of rewrites that the store has begun since its start."""
    return int(sidecar.store.client.info("persistence")["aof_rewrites"])


def is_rewriting(sidecar: Sidecar) -> bool:
    """Return whether the store is rewriting its file."""
    return bool(sidecar.store.client.info("persistence")["aof_rewrite_in_progress"])


def wait_for_rewrites(sidecar: Sidecar, count: int = 1) -> None:
    """Wait for the end of a number of rewrites. The first follows every start."""
    eventually(lambda: rewrites(sidecar) >= count and not is_rewriting(sidecar))


@contextmanager
def slow_rewrites(sidecar: Sidecar, seconds_per_key: float) -> Iterator[None]:
    """Slow down rewrites within the block, so that a test can act during one."""
    client: Any = sidecar.store.client
    client.config_set("rdb-key-save-delay", int(seconds_per_key * 1e6))
    yield
    with suppress(Exception):
        client.config_set("rdb-key-save-delay", 0)


@contextmanager
def core_files_allowed() -> Iterator[None]:
    """Allow core files within the block, so that a limit of 0 is one that the sidecar set."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("the hard limit on core files is 0 already")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def may_write_core_files(pid: int) -> bool:
    """Return whether a process may write core files."""
    return resource.prlimit(pid, resource.RLIMIT_CORE)[0] != 0
