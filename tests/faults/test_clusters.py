"""Real clusters with moving and lost slots, and failovers by Sentinel."""

import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from tests.access.callers import write_secret
from tests.faults.deployments import client_of, connections, move_slot, sentinel, sidecar_on
from tests.faults.recorder import Recorder
from tests.faults.storm import storm
from tests.stores import StoreServer, free_port, redis_program, valkey_cluster, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, status_of

STATUSES = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
BACK_SECONDS = 5.0
NOT_SERVING = 2


def test_a_moving_slot_loses_nothing(effort: Callable[[int, int], int]) -> None:
    """Writes are stored once and in order while their session's slot moves between three nodes."""
    with valkey_cluster() as url, Sidecar(url) as sidecar, new_channel(sidecar.target) as channel:
        ports = [int(part.rpartition(":")[2]) for part in url.removeprefix("redis+cluster://").split(",")]
        for _ in range(effort(1, 20)):
            session = SessionCalls(channel, new_session_id())
            recorder = Recorder(session.id)
            slot = sidecar.store.client.keyslot(sidecar.store.key(session.id))
            with storm([session], recorder):
                for _ in range(4):
                    before = recorder.count("acknowledged")
                    move_slot(ports, slot)
                    eventually(lambda: recorder.full or recorder.count("acknowledged") > before + 20, BACK_SECONDS)  # noqa: B023
            assert recorder.problems(sidecar.store) == []
            assert set(recorder.statuses) <= STATUSES, f"{recorder.statuses}\n{sidecar.log}"
            assert not [text for text in recorder.error_texts if "SLOT" in text or "ASK" in text or "MOVED" in text]
            assert status_of(session.get_notes) == grpc.StatusCode.OK


def test_a_lost_slot_is_unavailable() -> None:
    """Calls are UNAVAILABLE while no node serves a slot (CLUSTERDOWN), and OK once a node does."""
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
            slot = sidecar.store.client.keyslot("another session")
            admin.execute_command("CLUSTER", "DELSLOTS", slot)
            eventually(lambda: state() == "fail")
            for call in (session.get_notes, session.begin_run, session.get_session, session.append_turns):
                assert status_of(call) == grpc.StatusCode.UNAVAILABLE
            admin.execute_command("CLUSTER", "ADDSLOTS", slot)
            eventually(lambda: state() == "ok")
            eventually(lambda: status_of(session.get_notes) == grpc.StatusCode.OK, BACK_SECONDS)
            assert session.get_notes().notes.summary == "said"
            sidecar.wait_until_serving(BACK_SECONDS)


def test_a_cluster_node_given_as_a_single_node() -> None:
    """With redis:// for a cluster node, sessions on other nodes are UNAVAILABLE and the log suggests redis+cluster://."""
    with valkey_cluster() as url:
        node = url.removeprefix("redis+cluster://").split(",")[0]
        with Sidecar(f"redis://{node}") as sidecar, new_channel(sidecar.target) as channel:
            statuses = {status_of(SessionCalls(channel, new_session_id()).get_notes) for _ in range(20)}
            assert statuses == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
            assert sidecar.log.count("write redis+cluster://") == 1


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
def test_a_failover_is_over_within_seconds() -> None:
    """After SIGKILL of the master in a storm, Sentinel promotes the replica and writes succeed again within 5 s."""
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
                session = SessionCalls(channel, new_session_id())
                recorder = Recorder(session.id)
                with storm([session], recorder):
                    eventually(lambda: recorder.count("acknowledged") > 50)
                    killed = time.monotonic()
                    master.kill()
                    eventually(lambda: recorder.count("unknown") > 0)
                    before = recorder.count("acknowledged")
                    eventually(lambda: recorder.count("acknowledged") > before + 6 or recorder.full, 30)
                    outage = time.monotonic() - killed
                assert outage < BACK_SECONDS
                assert set(recorder.statuses) <= STATUSES, recorder.statuses
                assert admin.info("replication")["role"] == "master"
                sidecar.wait_until_serving(BACK_SECONDS)
                assert status_of(session.get_notes) == grpc.StatusCode.OK


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
@pytest.mark.parametrize("user", ["", "app"])
def test_sentinels_with_a_separate_login(user: str, tmp_path: Path) -> None:
    """Sentinels that require a password work with --sentinel-password-file, which the log suggests if it is missing."""
    password = "canary-sentinel-7d21"
    lines = [f"user {user} on >{password} +@all", "user default off"] if user else [f"requirepass {password}"]
    password_file = write_secret(tmp_path / "password", password)
    flags = ("--sentinel-password-file", str(password_file), *(("--sentinel-user", user) if user else ()))
    with (
        StoreServer(valkey_program()) as master,
        sentinel(master.port, *lines) as port,
        client_of(master.port) as admin,
    ):
        url = f"redis+sentinel://127.0.0.1:{port}/mymaster"
        with sidecar_on(url) as refused:
            eventually(lambda: "NOT_SERVING: " in refused.log)
            assert "no Sentinel names a master" in refused.log
            assert "set --sentinel-password-file" in refused.log
        with sidecar_on(url, flags) as sidecar, new_channel(sidecar.target) as channel:
            sidecar.wait_until_serving()
            assert status_of(SessionCalls(channel, new_session_id()).append_turns) == grpc.StatusCode.OK
            assert admin.dbsize()


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
def test_one_sentinel_of_three_is_enough() -> None:
    """With one Sentinel silent and one absent, the third is used at once, at the start and at each reconnect."""
    with (
        StoreServer(valkey_program()) as master,
        sentinel(master.port) as port,
        socket.create_server(("127.0.0.1", 0)) as silent,
        client_of(master.port) as admin,
    ):
        absent = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{free_port()}"
        url = f"redis+sentinel://{absent},127.0.0.1:{port}/mymaster"
        with sidecar_on(url) as sidecar, new_channel(sidecar.target) as channel:
            sidecar.wait_until_serving()
            session = SessionCalls(channel, new_session_id())
            for call in (session.append_turns, session.get_session, session.get_notes):
                assert status_of(call) == grpc.StatusCode.OK
            count = len(connections(admin))
            for _ in range(3):
                # A connection that is killed while it is being opened is a failed attempt: the next one takes its time.
                eventually(lambda: len(connections(admin)) == count)
                admin.client_kill_filter(_type="normal")
                began = time.monotonic()
                eventually(lambda: status_of(session.append_turns) == grpc.StatusCode.OK)
                assert time.monotonic() - began < 1  # A connection may take 5 s in these tests.


@pytest.mark.skipif(redis_program() is None, reason="no redis-server on PATH, so no Sentinel")
def test_a_sentinel_that_names_a_replica_is_not_trusted() -> None:
    """While the master that Sentinel names is a replica, health is NOT_SERVING with the reason."""
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
