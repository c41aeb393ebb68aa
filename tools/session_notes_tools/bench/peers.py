"""Other sidecars, where they are on PATH: `daprd`, with the same store behind it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from session_notes_server.child_process import die_with_parent

from session_notes_tools.bench.load import Target
from session_notes_tools.bench.stores import Store, ended, free_ports, listening

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


def missing() -> list[str]:
    """Peers that are left out, since they are not on PATH."""
    return [] if shutil.which("daprd") else ["daprd"]


@contextlib.asynccontextmanager
async def peers(store: Store, session: bytes, count: int) -> AsyncIterator[list[Target]]:
    """Those that are there. Each has sessions of its own in the store: a document a key, as `session` is."""
    if missing():
        yield []
        return
    grpc_port, http_port, internal_port, metrics_port = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        (Path(folder) / "store.yaml").write_text(_COMPONENT.format(port=store.port))
        process = await asyncio.create_subprocess_exec(
            *("daprd", "--app-id", "bench", "--resources-path", folder, "--mode", "standalone"),
            *("--dapr-listen-addresses", "127.0.0.1", "--dapr-grpc-port", str(grpc_port)),
            *("--dapr-http-port", str(http_port), "--dapr-internal-grpc-port", str(internal_port)),
            *("--metrics-port", str(metrics_port), "--log-level", "error"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            await listening(grpc_port, process)
            address = f"127.0.0.1:{grpc_port}"
            # As dapr/proto/runtime/v1/dapr.proto numbers them: store_name 1, key 2; states 2, of key 1 and value 2.
            keys = [f"bench-{number}".encode() for number in range(count)]
            reads = tuple(_field(1, b"store") + _field(2, key) for key in keys)
            writes = tuple(_field(1, b"store") + _field(2, _field(1, key) + _field(2, session)) for key in keys)
            async with grpc.aio.insecure_channel(address) as channel:
                save: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{_METHODS}SaveState")
                for write in writes:
                    await save(write, timeout=30, wait_for_ready=True)
            yield [
                Target("daprd (tcp)", name, address, f"{_METHODS}{name}", bodies, (process.pid,), store.pid)
                for name, bodies in (("GetState", reads), ("SaveState", writes))
            ]
        finally:
            await ended(process)


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message, as protobuf writes it."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
