"""OK means stored, once: over crashes of the sidecar, crashes of the store, and among many writers."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from tests.faults.history import KINDS, Final, History, storm, write
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id

ENDS = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
# Not `everysec`, with which a store that is killed on a slow disk loses what it has answered: see test_machine.
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")


def test_ok_means_stored_once(effort: Callable[[int, int], int]) -> None:
    """SIGKILL the sidecar in a write storm, round after round: every OK is there once, every unknown 0 or 1 times."""
    with StoreServer(valkey_program()) as server, Sidecar(server.url) as sidecar:
        for round_number in range(effort(5, 50)):
            history, session_id = History(), new_session_id()
            if round_number:
                sidecar.start()
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
                enough = random.randint(30, 200)
                with storm([session], history):
                    eventually(lambda: history.count("ok") >= enough, 30)  # noqa: B023
                    sidecar.kill()
                    eventually(lambda: history.count("unknown") > 0)  # noqa: B023
            assert history.faults(Final.of(sidecar.store, session_id)) == []
            assert set(history.statuses) <= ENDS
            assert sidecar.store.without_ttl() == []


def test_sixteen_writers_keep_order(effort: Callable[[int, int], int]) -> None:
    """16 threads on one session, over 4 connections: numbers without gap or repeat, in real-time order, none lost."""
    with StoreServer(valkey_program()) as server, Sidecar(server.url) as sidecar, ExitStack() as stack:
        channels = [stack.enter_context(new_channel(sidecar.target)) for _ in range(4)]
        for _ in range(effort(1, 20)):
            session_id, history = new_session_id(), History()
            sessions = [SessionCalls(channel, session_id) for channel in channels]

            def work(index: int, sessions: list[SessionCalls] = sessions, history: History = history) -> None:
                session = sessions[index % 4]
                for number in range(30):
                    kind, name = KINDS[number % 3], f"{session.id}-{index}-{number}"
                    history.call(kind, name, lambda: write(session, kind, name, 30))  # noqa: B023

            with ThreadPoolExecutor(16) as pool:
                list(pool.map(work, range(16)))
            assert history.statuses == {grpc.StatusCode.OK: 16 * 30}
            assert history.faults(Final.of(sidecar.store, session_id)) == []


@pytest.mark.parametrize("kept", [True, False], ids=["append-only", "control"])
def test_the_store_may_crash(kept: bool, effort: Callable[[int, int], int]) -> None:
    """SIGKILL Valkey in a storm: with the append-only file on nothing acknowledged is lost; without it, it must be."""
    with (
        StoreServer(valkey_program(), APPEND_ONLY if kept else ()) as server,
        Sidecar(server.url, flags=("--store-timeout", "1s")) as sidecar,
    ):
        for _ in range(effort(2, 30) if kept else 1):
            session_id, history = new_session_id(), History()
            with new_channel(sidecar.target) as channel:
                session = SessionCalls(channel, session_id)
                with storm([session], history):
                    eventually(lambda: history.count("ok") >= 100, 30)  # noqa: B023
                    server.kill()
                    eventually(lambda: history.count("unknown") > 0)  # noqa: B023
                    server.start()
                    if kept:
                        before = history.count("ok")
                        eventually(lambda: history.count("ok") > before or history.full, 30)  # noqa: B023
            sidecar.wait_until_serving()
            sidecar.store.close()
            faults = history.faults(Final.of(sidecar.store, session_id))
            assert (faults == []) is kept, faults[:5]
            assert kept or any(fault.startswith("lost") for fault in faults)
            assert set(history.statuses) <= ENDS


def test_nothing_lives_for_ever(effort: Callable[[int, int], int]) -> None:
    """Sidecar and store killed at random moments of a storm of every kind of write: no key is without a TTL."""
    with StoreServer(valkey_program(), APPEND_ONLY) as server, Sidecar(server.url) as sidecar:
        for round_number in range(effort(3, 40)):
            if not sidecar.running:
                sidecar.start()
            with new_channel(sidecar.target) as channel, ExitStack() as stack:
                histories = [History(limit=5000) for _ in range(3)]
                for history in histories:
                    session = SessionCalls(channel, new_session_id())
                    stack.enter_context(storm([session], history, writers=2))
                enough = random.randint(5, 60)
                eventually(lambda: sum(one.count("ok") for one in histories) > enough, 30)  # noqa: B023
                if round_number % 3 != 1:
                    sidecar.kill()
                if round_number % 3 != 0:
                    server.kill()
                eventually(lambda: any(one.count("unknown") for one in histories))  # noqa: B023
            if round_number % 3 != 0:
                server.start()
            sidecar.store.close()
            eventually(sidecar.store.answers)
            assert sidecar.store.keys()
            assert sidecar.store.without_ttl() == []
