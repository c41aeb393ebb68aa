"""A real cluster works while its slots move or are lost, and a Sentinel failover is over within seconds."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import grpc
import pytest
import redis

from tests.faults.history import Final, History, storm
from tests.stores import StoreServer, free_port, redis_program, valkey_cluster, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, status_of

ENDS = {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
BACK_SECONDS = 5.0
NOT_SERVING = 2


def _client(port: int) -> Any:
    return redis.Redis(port=port)


def move_slot(ports: list[int], slot: int) -> None:
    """Moves a slot, with what is in it, from the node that has it to the next one."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(_client(port)) for port in ports]
        names = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
        owned = [shard for shard in nodes[0].execute_command("CLUSTER", "SLOTS") if shard[0] <= slot <= shard[1]]
        source = ports.index(int(owned[0][2][1]))
        target = (source + 1) % len(ports)
        nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        while keys := nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:  # One by one, so that sessions are seen in two parts meanwhile.
                nodes[source].execute_command("MIGRATE", "127.0.0.1", ports[target], key, 0, 5000)
        for index in (target, source, *range(len(nodes))):
            nodes[index].execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])


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
    with StoreServer(valkey_program(), flags) as server, _client(server.port) as admin:
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


@contextmanager
def sentinel(master: int) -> Iterator[int]:
    """A Sentinel of our own that watches a master and gives it up quickly; its port."""
    program = redis_program()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="session-notes-sentinel-") as home:
        port, config = free_port(), Path(home) / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {home}\nlogfile {home}/log\n"
            f"sentinel monitor mymaster 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 3000\n"
        )
        with Popen([program, str(config), "--sentinel"], start_new_session=True) as process:
            try:
                yield port
            finally:
                process.kill()


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
        _client(replica.port) as admin,
    ):
        eventually(lambda: admin.info("replication")["master_link_status"] == "up", 20)
        with sentinel(master.port) as port, _client(port) as watch:
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
