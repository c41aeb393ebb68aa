"""Sidecars with several workers, and connections to each worker."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.stores import is_alive
from tests.support import Sidecar, eventually, new_channel

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares a port's connections")

WORKERS = ["--workers", "2"]
SERVING = health_pb2.HealthCheckResponse.SERVING


@contextmanager
def sidecar_with_workers(
    redis_url: str | None = None, *, flags: Sequence[str] = (), **options: Any
) -> Iterator[Sidecar]:
    """Run a sidecar with two workers that both serve calls."""
    with Sidecar(redis_url, flags=[*flags, *WORKERS], **options) as sidecar:
        eventually(lambda: f"listening on {sidecar.target}" in sidecar.log)
        yield sidecar


def workers(sidecar: Sidecar) -> list[int]:
    """Return the process ids of a sidecar's workers."""
    assert sidecar.process is not None
    return [pid for pid in children(sidecar.process.pid) if b"session_notes_server.sidecar.worker" in command_line(pid)]


def children(pid: int) -> list[int]:
    """Return the ids of a process's running children."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for child in map(int, pids) if is_alive(child)]


def command_line(pid: int) -> bytes:
    """Return a process's command line. It is empty if the process has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def connections(pid: int, port: int) -> set[str]:
    """Return the connections to a port that a process has accepted, by inode."""
    established, accepted = "01", set()
    for table in ("tcp", "tcp6"):
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (row.split()[column] for column in (1, 3, 9))
            if state == established and int(local.rpartition(":")[2], 16) == port:
                accepted.add(f"socket:[{inode}]")
    open_files = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            open_files.add(str(descriptor.readlink()))
    return accepted & open_files


@contextmanager
def channel_per_worker(
    sidecar: Sidecar, connect: Callable[[str], grpc.Channel] = new_channel
) -> Iterator[dict[int, grpc.Channel]]:
    """Connect to each worker, and yield the channels by process id."""
    port, channels = int(sidecar.target.rpartition(":")[2]), dict[int, grpc.Channel]()
    with ExitStack() as stack:
        for _ in range(200):
            pids = workers(sidecar)
            before = {pid: connections(pid, port) for pid in pids}
            channel = stack.enter_context(connect(sidecar.target))
            assert health(channel) is not None
            (accepting,) = [pid for pid in pids if connections(pid, port) - before[pid]]
            channels.setdefault(accepting, channel)
            if len(channels) == len(pids) > 1:
                break
        else:
            raise AssertionError(f"all of 200 connections went to {list(channels)}")
        yield channels


def health(channel: grpc.Channel) -> int | None:
    """Return the health status that a channel reports, or None if the call fails."""
    with suppress(grpc.RpcError):
        return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5).status)
    return None
