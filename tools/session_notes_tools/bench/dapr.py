"""Dapr's sidecar `daprd`, on the same store, if it is on PATH."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio

from session_notes_tools.bench.processes import free_ports, server_process
from session_notes_tools.bench.stores import Store
from session_notes_tools.bench.targets import Target

_METHODS = "/dapr.proto.runtime.v1.Dapr/"
_COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: store}}
spec:
  type: state.redis
  version: v1
  metadata:
  - {{name: redisHost, value: "127.0.0.1:{port}"}}
  - {{name: redisPassword, value: ""}}
"""


def find_daprd() -> str | None:
    """Return the path of daprd, or None if it is not on PATH."""
    return shutil.which("daprd")


@contextlib.asynccontextmanager
async def dapr_targets(store: Store, session: bytes, count: int) -> AsyncIterator[list[Target]]:
    """Run daprd and yield its targets, or none if it is not on PATH.

    Args:
        store: The store that it uses.
        session: The document to store under each key.
        count: The number of keys.

    Raises:
        BenchError: If it does not start.
    """
    daprd = find_daprd()
    if daprd is None:
        yield []
        return
    grpc_port, http_port, internal_port, metrics_port = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        (Path(folder) / "store.yaml").write_text(_COMPONENT.format(port=store.port))
        async with server_process(
            *(daprd, "--app-id", "bench", "--resources-path", folder, "--mode", "standalone"),
            *("--dapr-listen-addresses", "127.0.0.1", "--dapr-grpc-port", str(grpc_port)),
            *("--dapr-http-port", str(http_port), "--dapr-internal-grpc-port", str(internal_port)),
            *("--metrics-port", str(metrics_port), "--log-level", "error"),
            port=grpc_port,
            output=asyncio.subprocess.DEVNULL,
        ) as pid:
            address = f"127.0.0.1:{grpc_port}"
            # Field numbers of dapr/proto/runtime/v1/dapr.proto. GetState: store_name 1, key 2.
            # SaveState: store_name 1, states 2, each of key 1 and value 2.
            keys = [f"bench-{number}".encode() for number in range(count)]
            reads = tuple(_field(1, b"store") + _field(2, key) for key in keys)
            writes = tuple(_field(1, b"store") + _field(2, _field(1, key) + _field(2, session)) for key in keys)
            async with grpc.aio.insecure_channel(address) as channel:
                save: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{_METHODS}SaveState")
                for write in writes:
                    await save(write, timeout=30, wait_for_ready=True)
            yield [
                Target("daprd (tcp)", name, address, f"{_METHODS}{name}", bodies, (pid,), store.pid)
                for name, bodies in (("GetState", reads), ("SaveState", writes))
            ]


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field: bytes, a string or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
