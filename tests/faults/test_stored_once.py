"""Acknowledged writes are stored exactly once, across crashes of sidecar and store, and with many writers."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest
from session_notes_tools.replay.durability import STORED_KINDS

from tests.faults.recorder import Recorder
from tests.faults.storm import storm, write
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id

STATUSES = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
# Not `everysec`, with which a store killed on a slow disk loses acknowledged writes (test_machine).
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")


def test_a_killed_sidecar_stores_writes_once(effort: Callable[[int, int], int]) -> None:
    """After SIGKILL of the sidecar in a storm, acknowledged writes are stored once and unknown ones at most once.

    Appends repeated under their ids after that are stored once, too.
    """
    with StoreServer(valkey_program()) as server, Sidecar(server.url) as sidecar:
        for _ in range(effort(5, 50)):
            session_id = new_session_id()
            recorder = Recorder(session_id)
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
                target = random.randint(30, 200)
                with storm([session], recorder):
                    eventually(lambda: recorder.count("acknowledged") >= target, 30)  # noqa: B023
                    sidecar.kill()
                    eventually(lambda: recorder.count("unknown") > 0)  # noqa: B023
            assert recorder.problems(sidecar.store) == []
            sidecar.start()
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
                recorder.repeat_appends(lambda name: write(session, "turn", name))  # noqa: B023
            assert recorder.problems(sidecar.store) == []
            assert set(recorder.statuses) <= STATUSES
            assert sidecar.store.without_ttl() == []


def test_sixteen_writers_keep_order(effort: Callable[[int, int], int]) -> None:
    """Writes of 16 threads over 4 connections are all stored, numbered without gap or repeat in real-time order."""
    with StoreServer(valkey_program()) as server, Sidecar(server.url) as sidecar, ExitStack() as stack:
        channels = [stack.enter_context(new_channel(sidecar.target)) for _ in range(4)]
        for _ in range(effort(1, 20)):
            session_id = new_session_id()
            recorder = Recorder(session_id)
            sessions = [SessionCalls(channel, session_id) for channel in channels]

            def work(index: int, sessions: list[SessionCalls] = sessions, recorder: Recorder = recorder) -> None:
                session = sessions[index % 4]
                for number in range(30):
                    kind, name = STORED_KINDS[number % 3], f"{session.id}-{index}-{number}"
                    recorder.record(kind, [name], lambda: write(session, kind, name, 30))  # noqa: B023

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(work, range(16)))
            assert recorder.statuses == {grpc.StatusCode.OK: 16 * 30}
            assert recorder.problems(sidecar.store) == []


@pytest.mark.parametrize("durable", [True, False], ids=["append-only", "control"])
def test_a_crash_of_the_store_loses_nothing(durable: bool, effort: Callable[[int, int], int]) -> None:
    """SIGKILL of the store in a storm loses no acknowledged write, except in the control without append-only file."""
    with (
        StoreServer(valkey_program(), APPEND_ONLY if durable else ()) as server,
        Sidecar(server.url, flags=("--store-timeout", "1s")) as sidecar,
    ):
        for _ in range(effort(2, 30) if durable else 1):
            session_id = new_session_id()
            recorder = Recorder(session_id)
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
                with storm([session], recorder):
                    eventually(lambda: recorder.count("acknowledged") >= 100, 30)  # noqa: B023
                    server.kill()
                    eventually(lambda: recorder.count("unknown") > 0)  # noqa: B023
                    server.start()
                    if durable:
                        before = recorder.count("acknowledged")
                        eventually(lambda: recorder.count("acknowledged") > before or recorder.full, 30)  # noqa: B023
            sidecar.wait_until_serving()
            sidecar.store.close()
            problems = recorder.problems(sidecar.store)
            assert (problems == []) is durable, problems[:5]
            assert durable or any(": lost: " in problem for problem in problems)
            assert set(recorder.statuses) <= STATUSES


def test_every_key_has_a_ttl_after_a_crash(effort: Callable[[int, int], int]) -> None:
    """After SIGKILL of sidecar and store at random moments of a storm, no key is without a TTL."""
    with StoreServer(valkey_program(), APPEND_ONLY) as server, Sidecar(server.url) as sidecar:
        for round_number in range(effort(3, 40)):
            if not sidecar.running:
                sidecar.start()
            with new_channel(sidecar.target) as channel, ExitStack() as stack:
                recorders = [Recorder(new_session_id(), limit=5000) for _ in range(3)]
                for recorder in recorders:
                    session = SessionCalls(channel, recorder.history.session_id)
                    stack.enter_context(storm([session], recorder, writers=2))
                target = random.randint(5, 60)
                eventually(lambda: sum(each.count("acknowledged") for each in recorders) > target, 30)  # noqa: B023
                if round_number % 3 != 1:
                    sidecar.kill()
                if round_number % 3 != 0:
                    server.kill()
                eventually(lambda: any(each.count("unknown") for each in recorders))  # noqa: B023
            if round_number % 3 != 0:
                server.start()
            sidecar.store.close()
            eventually(sidecar.store.answers)
            assert sidecar.store.keys()
            assert sidecar.store.without_ttl() == []
