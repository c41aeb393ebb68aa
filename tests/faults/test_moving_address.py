"""A `redis://` address that moves to another store: the sidecar leaves the demoted master."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import redis
from session_notes_server.store import RedisTarget
from session_notes_server.store.errors import ConnectionLost
from session_notes_server.store.redis.connection import pack

from tests.faults.deployments import connections
from tests.faults.proxy import Proxy
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

SERVING, NOT_SERVING = 1, 2
BACK_SECONDS = 3.0


@contextmanager
def two_stores() -> Iterator[tuple[StoreServer, Any, StoreServer, Any]]:
    """Yield a master and its replica, each with a client."""
    with (
        StoreServer(valkey_program(), ("--repl-diskless-sync-delay", "0")) as first,
        redis.Redis(port=first.port) as first_client,
    ):
        follow = ("--replicaof", f"127.0.0.1 {first.port}")
        with StoreServer(valkey_program(), follow) as second, redis.Redis(port=second.port) as second_client:
            eventually(lambda: second_client.info("replication")["master_link_status"] == "up", 20)
            yield first, first_client, second, second_client


@pytest.mark.parametrize("refusal", ["READONLY", "NOREPLICAS"])
def test_writes_follow_an_address_that_moves(refusal: str) -> None:
    """Within 3 s of a move to a promoted store, writes are OK and no connection to the old store remains."""
    with (
        two_stores() as (first, first_client, second, second_client),
        Proxy(first.port) as proxy,
        Sidecar(proxy.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "before")
        session.append_turns(1)
        eventually(lambda: second_client.dbsize() == first_client.dbsize())
        second_client.replicaof("NO", "ONE")
        if refusal == "READONLY":
            first_client.replicaof("127.0.0.1", second.port)
        else:
            first_client.config_set("min-replicas-to-write", 1)
        proxy.switch(second.port)
        moved = time.monotonic()
        eventually(lambda: status_of(session.append_turns) == grpc.StatusCode.OK, 20)
        assert time.monotonic() - moved < BACK_SECONDS
        sidecar.wait_until_serving(BACK_SECONDS)
        # Reads have separate connections.
        eventually(lambda: not connections(first_client), 5)
        assert session.get_notes().notes.summary == "before"
        assert session.get_session().turn_count >= 2
        assert sidecar.running


def test_an_idle_sidecar_follows_the_address() -> None:
    """Without calls, the readiness probe finds that writes would be refused, and the connections move."""
    with (
        two_stores() as (first, first_client, second, second_client),
        Proxy(first.port) as proxy,
        Sidecar(proxy.url) as sidecar,
    ):
        second_client.replicaof("NO", "ONE")
        first_client.replicaof("127.0.0.1", second.port)
        proxy.switch(second.port)
        eventually(lambda: not connections(first_client), 10)
        eventually(
            lambda: len(connections(second_client)) == 3,
            10,
        )
        sidecar.wait_until_serving(BACK_SECONDS)


def test_a_replica_is_not_serving() -> None:
    """On a read-only replica, reads are OK and writes UNAVAILABLE with few connections, until its promotion."""
    with (
        two_stores() as (_, _, second, second_client),
        Proxy(second.port) as proxy,
        Sidecar(proxy.url, wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, new_session_id())
        eventually(lambda: sidecar.health() == NOT_SERVING and "NOT_SERVING" in sidecar.log)
        assert "it is a read-only replica (READONLY)" in sidecar.log
        began, before = time.monotonic(), len(proxy.times_of(b"HELLO"))
        while time.monotonic() < began + 2:
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
                session.append_turns(1)
            assert not session.get_notes().ready
        # Three connections, each in the end at most twice a second.
        assert len(proxy.times_of(b"HELLO")) - before < 25
        assert sidecar.health() == NOT_SERVING
        second_client.replicaof("NO", "ONE")
        eventually(lambda: status_of(session.append_turns) == grpc.StatusCode.OK, BACK_SECONDS)
        sidecar.wait_until_serving(BACK_SECONDS)


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
def test_health_reflects_refused_writes(setting: str) -> None:
    """A store that replies to PING and refuses every write is NOT_SERVING with the reason, even without any write."""
    code = {"maxmemory": "OOM", "min-replicas-to-write": "NOREPLICAS"}[setting]
    with (
        StoreServer(valkey_program()) as server,
        redis.Redis(port=server.port) as admin,
        Sidecar(server.url) as sidecar,
    ):
        admin.config_set(setting, 1)
        eventually(lambda: sidecar.health() == NOT_SERVING, 5)
        assert f"({code})" in sidecar.log
        admin.config_set(setting, 0)
        sidecar.wait_until_serving(5)
        assert not sidecar.store.keys(), "the readiness probe leaves nothing in the store"


def test_a_retired_connection_finishes_its_calls() -> None:
    """A command in flight on a retired connection gets its reply, and then the connection closes."""

    async def run() -> object:
        with StoreServer(valkey_program()) as server:
            target = RedisTarget.parse(server.url)
            connection = (await target.open(target.addresses[0], timeout_seconds=5, silence_seconds=5)).connection
            in_flight = connection.send(pack("BLPOP", "nothing", "0.1"))
            connection.retire()
            [reply] = await in_flight
            with pytest.raises(ConnectionLost):
                await connection.send(pack("PING"))
            return reply

    assert asyncio.run(run()) is None
