"""Deployments of stores: clusters with moving slots, Sentinels, and stores that tests cannot read."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from typing import Any

import redis

from tests.stores import Store, free_port, redis_program
from tests.support import Sidecar


def client_of(port: int) -> Any:
    """Return a client of a store."""
    return redis.Redis(port=port)


def connections(client: Any) -> list[Any]:
    """Return the sidecar's connections to a store."""
    return [entry for entry in client.client_list() if entry["name"] == "session-notes"]


def move_slot(ports: list[int], slot: int) -> None:
    """Move a slot with its keys from the node that owns it to the next one."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(client_of(port)) for port in ports]
        names = [node.execute_command("CLUSTER", "MYID").decode() for node in nodes]
        owned = [shard for shard in nodes[0].execute_command("CLUSTER", "SLOTS") if shard[0] <= slot <= shard[1]]
        source = ports.index(int(owned[0][2][1]))
        target = (source + 1) % len(ports)
        nodes[target].execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", names[source])
        nodes[source].execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", names[target])
        while keys := nodes[source].execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
            for key in keys:  # One by one, so that sessions are split in the meantime.
                nodes[source].execute_command("MIGRATE", "127.0.0.1", ports[target], key, 0, 5000)
        for index in (target, source, *range(len(nodes))):
            nodes[index].execute_command("CLUSTER", "SETSLOT", slot, "NODE", names[target])


@contextmanager
def sentinel(master: int, *config_lines: str) -> Iterator[int]:
    """Run a Sentinel that watches a master and fails over quickly, and yield its port."""
    program = redis_program()
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="session-notes-sentinel-") as home:
        port, config = free_port(), Path(home) / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {home}\nlogfile {home}/log\n"
            f"sentinel monitor mymaster 127.0.0.1 {master} 1\n"
            "sentinel down-after-milliseconds mymaster 300\nsentinel failover-timeout mymaster 3000\n"
            + "".join(f"{line}\n" for line in config_lines)
        )
        with Popen([program, str(config), "--sentinel"], start_new_session=True) as process:
            try:
                yield port
            finally:
                process.kill()


class OpaqueStore(Store):
    """A store that is not read at the end of a test, for lack of its authority or password."""

    def process_id(self) -> None:
        return None


def sidecar_on(url: str, flags: Sequence[str] = ()) -> Sidecar:
    """Return a sidecar on a store that tests cannot read. It does not wait until it is SERVING."""
    sidecar = Sidecar(url, flags=flags, wait=False)
    sidecar.store = OpaqueStore(url, sidecar.store.prefix)
    return sidecar
