"""A real cluster works while its slots move or are lost, and a Sentinel failover is over within seconds."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.access.callers import write_secret
from tests.faults.deployments import client_of, move_slot, sentinel, sidecar_on
from tests.faults.history import Final, History, storm
from tests.stores import StoreServer, free_port, redis_program, valkey_cluster, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, status_of

ENDS = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
BACK_SECONDS = 5.0
NOT_SERVING = 2


def test_slots_move_in_a_storm(effort: Callable[[int, int], int]) -> None:
    """Three nodes, the slot of a session moved on and on while it is written: nothing lost, twice or out of order."""
    with valkey_cluster() as url, Sidecar(url) as sidecar, new_channel(sidecar.target) as channel:
        ports = [int(part.rpartition(":")[2]) for part in url.removeprefix("redis+cluster://").split(",")]
        for _ in range(effort(1, 20)):
            session, history = SessionCalls(channel, new_session_id()), History()
            slot = sidecar.store.client.keyslot(sidecar.store.key(session.id))
            with storm([session], history):
                for _ in range(4):
                    before = history.count("ok")
                    move_slot(ports, slot)
                    eventually(lambda: history.full or history.count("ok") > before + 20, BACK_SECONDS)  # noqa: B023
            assert history.faults(Final.of(sidecar.store, session.id)) == []
            assert set(history.statuses) <= ENDS, f"{history.statuses}\n{sidecar.log}"
            assert not [text for text in history.texts if "SLOT" in text or "ASK" in text or "MOVED" in text]
            assert status_of(session.get_notes) == grpc.StatusCode.OK


def test_a_lost_slot_is_unavailable() -> None:
    """CLUSTERDOWN: with a slot that no node serves, calls are UNAVAILABLE; with the slot back, all is well again."""
    bus = free_port()
    flags = ("--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "1000")
    with StoreServer(valkey_program(), flags) as server, client_of(server.port) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)

        def state() -> str:
            info: bytes | dict[str, str] = admin.execute_command("CLUSTER", "INFO")
            return (
                "ok"
                if "ok" in (info.values() if isinstance(info, dict) else info.decode().split("\r\n")[0])
                else "fail"
            )

        eventually(lambda: state() == "ok")
        with (
            Sidecar(f"redis+cluster://127.0.0.1:{server.port}", flags=("--store-timeout", "1s")) as sidecar,
            new_channel(sidecar.target) as channel,
        ):
            session = SessionCalls(channel, new_session_id())
            session.write_notes("run-1", "said")
            slot = sidecar.store.client.keyslot("somewhere else")
            admin.execute_command("CLUSTER", "DELSLOTS", slot)
            eventually(lambda: state() == "fail")
            for call in (session.get_notes, session.begin_run, session.get_session, session.append_turns):
                assert status_of(call) == grpc.StatusCode.UNAVAILABLE
            admin.execute_command("CLUSTER", "ADDSLOTS", slot)
            eventually(lambda: state() == "ok")
            eventually(lambda: status_of(session.get_notes) == grpc.StatusCode.OK, BACK_SECONDS)
            assert session.get_notes().notes.summary == "said"
            sidecar.wait_until_serving(BACK_SECONDS)


def test_a_cluster_that_is_called_a_single_node() -> None:
    """redis:// for a node of a cluster: UNAVAILABLE for what is elsewhere, and the log says what to write instead."""
    with valkey_cluster() as url:
        node = url.removeprefix("redis+cluster://").split(",")[0]
        with Sidecar(f"redis://{node}") as sidecar, new_channel(sidecar.target) as channel:
            ends = {status_of(SessionCalls(channel, new_session_id()).get_notes) for _ in range(20)}
            assert ends == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert sidecar.log.count("write redis+cluster://") == 1


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
def test_a_failover_is_over_within_seconds() -> None:
    """The master killed in a storm: Sentinel makes the replica master, and writes are back within 5 s."""
    program = redis_program()
    assert program is not None
    with (
        StoreServer(program) as master,
        StoreServer(
            program, ("--replicaof", "127.0.0.1", str(master.port), "--repl-diskless-sync-delay", "0")
        ) as replica,
        client_of(replica.port) as admin,
    ):
        eventually(lambda: admin.info("replication")["master_link_status"] == "up", 20)
        with sentinel(master.port) as port, client_of(port) as watch:
            eventually(lambda: watch.ping())
            eventually(lambda: watch.sentinel_slaves("mymaster"), 20)
            with (
                Sidecar(f"redis+sentinel://127.0.0.1:{port}/mymaster", flags=("--store-timeout", "1s")) as sidecar,
                new_channel(sidecar.target) as channel,
            ):
                session, history = SessionCalls(channel, new_session_id()), History()
                with storm([session], history):
                    eventually(lambda: history.count("ok") > 50)
                    killed = time.monotonic()
                    master.kill()
                    eventually(lambda: history.count("unknown") > 0)
                    before = history.count("ok")
                    eventually(lambda: history.count("ok") > before + 6 or history.full, 30)
                    took = time.monotonic() - killed
                assert took < BACK_SECONDS
                assert set(history.statuses) <= ENDS, history.statuses
                assert admin.info("replication")["role"] == "master"
                sidecar.wait_until_serving(BACK_SECONDS)
                assert status_of(session.get_notes) == grpc.StatusCode.OK


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
@pytest.mark.parametrize("user", ["", "app"])
def test_sentinels_with_a_login_of_their_own(user: str, tmp_path: Path) -> None:
    """Sentinels that ask for a password: without it the log says which setting is missing; with it, all is well. The
    login in the URL is for Redis, which here has none."""
    password = "canary-sentinel-7d21"
    lines = [f"user {user} on >{password} +@all", "user default off"] if user else [f"requirepass {password}"]
    given = write_secret(tmp_path / "password", password)
    flags = ("--sentinel-password-file", str(given), *(("--sentinel-user", user) if user else ()))
    with (
        StoreServer(valkey_program()) as master,
        sentinel(master.port, *lines) as port,
        client_of(master.port) as admin,
    ):
        url = f"redis+sentinel://127.0.0.1:{port}/mymaster"
        with sidecar_on(url) as refused:
            eventually(lambda: "NOT_SERVING: " in refused.log)
            assert "no Sentinel names a master" in refused.log
            assert "give --sentinel-password-file" in refused.log
        with sidecar_on(url, flags) as sidecar, new_channel(sidecar.target) as channel:
            sidecar.wait_until_serving()
            assert status_of(SessionCalls(channel, new_session_id()).append_turns) == grpc.StatusCode.OK
            assert admin.dbsize()


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
def test_one_sentinel_of_three_is_silent() -> None:
    """One Sentinel says nothing, one is not there: the third is heard at once, at the start and at each reconnect."""
    with (
        StoreServer(valkey_program()) as master,
        sentinel(master.port) as port,
        socket.create_server(("127.0.0.1", 0)) as silent,
        client_of(master.port) as admin,
    ):
        others = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{free_port()}"
        url = f"redis+sentinel://{others},127.0.0.1:{port}/mymaster"
        with sidecar_on(url) as sidecar, new_channel(sidecar.target) as channel:
            sidecar.wait_until_serving()
            session = SessionCalls(channel, new_session_id())
            assert status_of(session.append_turns) == grpc.StatusCode.OK
            for _ in range(3):
                admin.client_kill_filter(_type="normal")
                began = time.monotonic()
                eventually(lambda: status_of(session.append_turns) == grpc.StatusCode.OK)
                assert time.monotonic() - began < 1  # Of the 5 s that a connection may take here.


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
def test_a_sentinel_that_names_a_replica_is_not_believed() -> None:
    """The master that Sentinel names is a replica, for a failover it has not heard of: NOT_SERVING with the reason,
    until it is a master again."""
    with (
        StoreServer(valkey_program()) as master,
        sentinel(master.port, "sentinel down-after-milliseconds mymaster 60000") as port,
        client_of(master.port) as admin,
    ):
        admin.replicaof("127.0.0.1", free_port())
        with sidecar_on(f"redis+sentinel://127.0.0.1:{port}/mymaster") as sidecar:
            eventually(lambda: "names a master that is a read-only replica" in sidecar.log)
            assert sidecar.health() == NOT_SERVING
            admin.replicaof("NO", "ONE")
            sidecar.wait_until_serving(BACK_SECONDS)
