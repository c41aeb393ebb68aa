"""`--min-replicas-acked`: a write is OK only once enough replicas have it."""

import asyncio
import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes_server.store import Executor, RedisTarget, scripts
from session_notes_server.store.redis.connection import Connection

from tests.faults.proxy import Proxy
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

NOT_SERVING = 2
FLAGS = ("--store-timeout", "1s", "--min-replicas-acked", "1")


class Replicated:
    """A store with one replica behind a proxy, and a sidecar that waits for the replica."""

    def __init__(
        self, master: StoreServer, replica: Any, proxy: Proxy, sidecar: Sidecar, channel: grpc.Channel
    ) -> None:
        self.master, self.replica, self.proxy, self.sidecar = master, replica, proxy, sidecar
        self.session = SessionCalls(channel, new_session_id())

    def disconnect(self) -> None:
        """Disconnect the replica from the master without either noticing."""
        self.proxy.black_hole = True

    def reconnect(self) -> None:
        """Reconnect the replica, and wait until it has caught up."""
        self.proxy.black_hole = False
        self.proxy.refuse()
        self.proxy.accept()
        eventually(lambda: self.replica.info("replication")["master_link_status"] == "up", 30)
        eventually(lambda: status_of(self.session.append_turns) == grpc.StatusCode.OK, 30)

    def replica_has(self, text: str) -> bool:
        """Return whether the replica has a text in the session's runs."""
        key = self.sidecar.store.key(self.session.id, "runs")
        return text.encode() in b"\0".join(self.replica.hgetall(key).values())


@contextmanager
def replicated() -> Iterator[Replicated]:
    with StoreServer(valkey_program(), ("--repl-diskless-sync-delay", "0")) as master, Proxy(master.port) as proxy:
        follow = ("--replicaof", f"127.0.0.1 {proxy.port}", "--repl-timeout", "60")
        with (
            StoreServer(valkey_program(), follow) as server,
            redis.Redis(port=server.port) as replica,
            Sidecar(master.url, flags=FLAGS) as sidecar,
            new_channel(sidecar.target) as channel,
        ):
            eventually(lambda: replica.info("replication")["master_link_status"] == "up", 30)
            yield Replicated(master, replica, proxy, sidecar, channel)


@pytest.fixture(scope="module")
def shared() -> Iterator[Replicated]:
    with replicated() as replicated_store:
        yield replicated_store


@pytest.fixture
def store(shared: Replicated) -> Iterator[Replicated]:
    shared.session.id = new_session_id()
    yield shared
    shared.reconnect()


def test_an_acknowledged_write_is_at_the_replica(store: Replicated) -> None:
    """Each of 20 concurrent writes is at the replica when it is acknowledged."""

    def write(number: int) -> bool:
        store.session.write_notes(f"run-{number}", f"notes-{number}.")
        return store.replica_has(f"notes-{number}.")

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(write, range(20)))


def test_writes_without_the_replica_are_unavailable(store: Replicated) -> None:
    """With the replica cut off, writes are UNAVAILABLE within the timeout, and reads are OK."""
    store.session.write_notes("run-1", "first")
    store.disconnect()
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        store.session.write_notes("run-2", "second", timeout=2)
    assert store.session.get_notes(timeout=0.5).ready
    assert store.session.get_session(timeout=0.5).notes["default"].ready
    assert not store.replica_has("second")


def test_a_retry_without_the_replica_is_unavailable(store: Replicated) -> None:
    """A retry of a write with an unknown outcome is UNAVAILABLE until the replica has it, then DUPLICATE.

    The retry itself writes nothing. That the master has the write does not prove that a replica has it.
    """
    store.disconnect()
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        store.session.write_notes("run-1", "unknown")
    with redis.Redis(port=store.master.port) as admin:
        admin.client_kill_filter(_type="normal")
    eventually(lambda: status_of(store.session.get_notes) == grpc.StatusCode.OK)
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        store.session.write_notes("run-1", "unknown")
    store.reconnect()
    retried = store.session.write_notes("run-1", "unknown")
    assert retried.outcome == notes_api.WRITE_OUTCOME_DUPLICATE
    assert store.replica_has("unknown")


def test_a_failover_loses_no_acknowledged_write(store: Replicated) -> None:
    """Of 60 writes during which the replica is cut off, every acknowledged one is at the replica."""

    def write(number: int) -> tuple[int, grpc.StatusCode]:
        if number == 30:
            store.disconnect()
        return number, status_of(lambda: store.session.update_session(set={f"field-{number}": "x"}))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(write, range(60)))
    stored = {name.decode() for name in store.replica.hkeys(store.sidecar.store.key(store.session.id))}
    acknowledged = {number for number, status in results if status == grpc.StatusCode.OK}
    assert acknowledged
    assert {status for _, status in results} == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert not {f"f:field-{number}" for number in acknowledged} - stored


def test_the_embedded_store_rejects_the_setting() -> None:
    """With the embedded store, which has no replicas, the setting is rejected at the start."""
    with pytest.raises(AssertionError, match="--min-replicas-acked needs a --redis-url"), Sidecar(flags=FLAGS):
        pass


def test_lost_connections_leak_nothing(store: Replicated) -> None:
    """After 200 connections lost by writes that wait for the replica, no connection, task or descriptor is left."""

    def held() -> tuple[int, int]:
        gc.collect()
        connections = sum(isinstance(instance, Connection) for instance in gc.get_objects())
        return connections, sum(1 for _ in Path("/proc/self/fd").iterdir())

    async def lose(executor: Executor, times: int) -> None:
        for _ in range(times):
            for node in await executor._nodes.all():
                (await node.get()).abort()
            await executor.run("a-session", scripts.DeleteSession())

    async def count() -> tuple[tuple[int, int], tuple[int, int], int]:
        executors = [
            Executor(RedisTarget.parse(store.master.url), prefix="lost", timeout=timedelta(seconds=5), min_replicas=1)
            for _ in range(10)  # In parallel, since each reconnects after a backoff.
        ]
        await asyncio.gather(*(lose(executor, 1) for executor in executors))
        before = held()
        await asyncio.gather(*(lose(executor, 20) for executor in executors))
        after, tasks = held(), len(asyncio.all_tasks())
        await asyncio.gather(*(executor.aclose() for executor in executors))
        return before, after, tasks

    before, after, tasks = asyncio.run(count())
    assert after == before
    assert tasks == 1


def test_health_follows_the_replicas(store: Replicated) -> None:
    """A write that too few replicas have makes health NOT_SERVING with the reason, until they are back."""
    store.disconnect()
    with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
        store.session.append_turns(1)
    eventually(lambda: store.sidecar.health() == NOT_SERVING, 5)
    assert "too few replicas have confirmed the write (--min-replicas-acked)" in store.sidecar.log
    store.reconnect()
    store.sidecar.wait_until_serving(5)
