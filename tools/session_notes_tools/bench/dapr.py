"""Dapr's sidecar `daprd` on the same store, if it is on PATH, and its Python SDK, if it is installed."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from session_notes_tools.bench.caller import DAPR_CLIENT
from session_notes_tools.bench.contenders import JSONSessions, require_packages
from session_notes_tools.bench.errors import BenchError
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


@dataclass(frozen=True)
class Daprd:
    """A running daprd with a document under each key.

    Attributes:
        address: Its gRPC address.
        http: The URL of its HTTP port.
        targets: The calls that read and write the documents.
    """

    address: str
    http: str
    targets: Sequence[Target]


@contextlib.asynccontextmanager
async def run_daprd(store: Store, sessions: JSONSessions) -> AsyncIterator[Daprd]:
    """Run daprd.

    Args:
        store: The store that it uses.
        sessions: The sessions to store.

    Raises:
        BenchError: If it is not on PATH, or does not start.
    """
    if (daprd := shutil.which("daprd")) is None:
        raise BenchError("not on PATH")
    grpc_port, http_port, internal_port, metrics_port = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        (Path(folder) / "store.yaml").write_text(_COMPONENT.format(port=store.port))
        async with server_process(
            *(daprd, "--app-id", "bench", "--resources-path", folder, "--mode", "standalone"),
            *("--dapr-listen-addresses", "127.0.0.1", "--dapr-grpc-port", str(grpc_port)),
            *("--dapr-http-port", str(http_port), "--dapr-internal-grpc-port", str(internal_port)),
            *("--metrics-port", str(metrics_port), "--log-level", "error"),
            port=grpc_port,
        ) as server:
            address = f"127.0.0.1:{grpc_port}"
            # Field numbers of dapr/proto/runtime/v1/dapr.proto. GetState: store_name 1, key 2.
            # SaveState: store_name 1, states 2, each of key 1 and value 2.
            document = sessions.document()
            keys = [session_id.encode() for session_id in sessions.ids]
            reads = tuple(_field(1, b"store") + _field(2, key) for key in keys)
            writes = tuple(_field(1, b"store") + _field(2, _field(1, key) + _field(2, document)) for key in keys)
            async with grpc.aio.insecure_channel(address) as channel:
                save: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"{_METHODS}SaveState")
                try:
                    for write in writes:
                        await save(write, timeout=30, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    raise server.failure(f"SaveState failed: {error.details()}") from error
            targets = [
                Target("daprd (tcp)", name, address, f"{_METHODS}{name}", bodies, server.pids, store.pid)
                for name, bodies in (("GetState", reads), ("SaveState", writes))
            ]
            yield Daprd(address, f"http://127.0.0.1:{http_port}", targets)


@contextlib.asynccontextmanager
async def dapr_client(daprd: Daprd, sessions: JSONSessions) -> AsyncIterator[Sequence[Target]]:
    """Yield the target that reads a session from daprd with Dapr's Python SDK.

    Raises:
        BenchError: If the SDK is not installed.
    """
    require_packages("dapr")
    get_state, *_ = daprd.targets
    keys = tuple(session_id.encode() for session_id in sessions.ids)
    yield [
        Target(
            "daprd (tcp)",
            "DaprClient.get_state",
            f"{daprd.address} {daprd.http}",
            DAPR_CLIENT,
            keys,
            get_state.servers,
            get_state.store,
            protocol="client",
        )
    ]


def _field(number: int, content: bytes) -> bytes:
    """Encode a length-delimited protobuf field: bytes, a string or a message."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    low, rest = value & 127, value >> 7
    return bytes([low | 128]) + _varint(rest) if rest else bytes([low])
