"""`redis://` behind an address that moves: the demoted master keeps its connections, and the sidecar leaves it."""

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

from tests.faults.proxy import Proxy
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused, status_of

SERVING, NOT_SERVING = 1, 2
BACK_SECONDS = 3.0


@contextmanager
def two_stores() -> Iterator[tuple[StoreServer, Any, StoreServer, Any]]:
    """A master and its replica, each with a client."""
    with (
        StoreServer(valkey_program(), ("--repl-diskless-sync-delay", "0")) as first,
        redis.Redis(port=first.port) as one,
    ):
        follow = ("--replicaof", f"127.0.0.1 {first.port}")
        with StoreServer(valkey_program(), follow) as second, redis.Redis(port=second.port) as two:
            eventually(lambda: two.info("replication")["master_link_status"] == "up", 20)
            yield first, one, second, two


@pytest.mark.parametrize("refusal", ["READONLY", "NOREPLICAS"])
def test_writes_follow_an_address_that_moves(refusal: str) -> None:
    """The other store is promoted, new connections go there, the old ones stay at a replica, or at a master that has
    none now: writes are back within 3 s, health too, and no link of ours stays at the old one."""
    with (
        two_stores() as (first, one, second, two),
        Proxy(first.port) as proxy,
        Sidecar(proxy.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "before")
        session.append_turns(1)
        eventually(lambda: two.dbsize() == one.dbsize())
        two.replicaof("NO", "ONE")
        if refusal == "READONLY":
            one.replicaof("127.0.0.1", second.port)
        else:
            one.config_set("min-replicas-to-write", 1)
        proxy.switch(second.port)
        moved = time.monotonic()
        eventually(lambda: status_of(session.append_turns) == grpc.StatusCode.OK, 20)
        assert time.monotonic() - moved < BACK_SECONDS
        sidecar.wait_until_serving(BACK_SECONDS)
        # GetNotes and the other reads have links of their own.
        eventually(lambda: not [client for client in one.client_list() if client["name"] == "session-notes"], 5)
        assert session.get_notes().notes.summary == "before"
        assert session.get_session().turn_count >= 2
        assert sidecar.running


def test_an_idle_sidecar_follows_as_well() -> None:
    """Without a single call, health finds that writes would be refused, and the links move."""
    with (
        two_stores() as (first, one, second, two),
        Proxy(first.port) as proxy,
        Sidecar(proxy.url) as sidecar,
    ):
        two.replicaof("NO", "ONE")
        one.replicaof("127.0.0.1", second.port)
        proxy.switch(second.port)
        eventually(lambda: not [client for client in one.client_list() if client["name"] == "session-notes"], 10)
        eventually(lambda: len([client for client in two.client_list() if client["name"] == "session-notes"]) == 3, 10)
        sidecar.wait_until_serving(BACK_SECONDS)


def test_a_replica_is_no_store_and_is_not_hammered() -> None:
    """A real read-only replica: reads are answered, writes UNAVAILABLE, health NOT_SERVING with the reason, connections
    are few; promoted, it is used at once."""
    with (
        two_stores() as (_, _, second, two),
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
        # Three links, each at most once per half a second in the end.
        assert len(proxy.times_of(b"HELLO")) - before < 25
        assert sidecar.health() == NOT_SERVING
        two.replicaof("NO", "ONE")
        eventually(lambda: status_of(session.append_turns) == grpc.StatusCode.OK, BACK_SECONDS)
        sidecar.wait_until_serving(BACK_SECONDS)


@pytest.mark.parametrize("setting", ["maxmemory", "min-replicas-to-write"])
def test_health_follows_what_writes_meet(setting: str) -> None:
    """Out of memory, or without the replicas it wants, a store answers PING and refuses every write: NOT_SERVING, with
    the reason, though nobody writes."""
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
        assert not sidecar.store.keys(), "health leaves nothing in the store"


def test_a_link_that_is_replaced_finishes_what_is_in_flight() -> None:
    """A call that waits on the old link still has its answer, and the link closes behind it."""

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
