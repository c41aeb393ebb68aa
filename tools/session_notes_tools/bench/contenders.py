"""The sidecar's contenders: a bare gRPC server, and Redis without a sidecar."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import AsyncIterator

from google.protobuf.json_format import MessageToDict
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.session_notes_pb2 import GetNotesRequest

from session_notes_tools.bench import floor
from session_notes_tools.bench.caller import REDIS_READ, REDIS_UPDATE, SESSION_TTL_SECONDS
from session_notes_tools.bench.stores import Store
from session_notes_tools.bench.targets import Target
from session_notes_tools.python_process import PythonProcess


@contextlib.asynccontextmanager
async def bare_server(response_bytes: int, *, name: str = "floor", poller: str = "") -> AsyncIterator[list[Target]]:
    """Run a bare gRPC server, and yield its targets over TCP and a unix socket.

    Args:
        response_bytes: The size of its responses.
        name: Its name in the report.
        poller: gRPC's poller, as a value of GRPC_EXPERIMENTS; empty: gRPC's default.

    Raises:
        ProcessFailed: If it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        unix = f"unix:{folder}/floor.sock"
        arguments = ("-m", "session_notes_tools.bench.floor", str(response_bytes), "127.0.0.1:0", unix)
        env = {**os.environ, "GRPC_EXPERIMENTS": poller}
        async with PythonProcess("bare gRPC server", arguments, env) as server:
            server.drain_stderr()
            ports = (await anext(server.lines(), b"")).decode().split()
            if server.pid is None or not ports:
                raise server.failure("exited during startup")
            body = GetNotesRequest(session_id="bench-00000000-0").SerializeToString()
            yield [
                Target(f"{name} ({transport})", "Echo", address, floor.METHOD, (body,), (server.pid,))
                for transport, address in (("tcp", f"127.0.0.1:{ports[0]}"), ("unix", unix))
            ]


@contextlib.asynccontextmanager
async def redis_documents(store: Store, session: bytes, count: int) -> AsyncIterator[list[Target]]:
    """Store sessions as JSON documents, and yield the targets that read and update them with redis-py."""
    import redis.asyncio as redis

    keys = [f"bench-blob-{number}".encode() for number in range(count)]
    async with redis.Redis.from_url(store.url) as client:
        for key in keys:
            await client.set(key, session, ex=SESSION_TTL_SECONDS)
        yield [
            Target("redis-py, no sidecar", name, store.url, name, tuple(keys), store=store.pid)
            for name in (REDIS_READ, REDIS_UPDATE)
        ]


def json_session(notes: Notes) -> bytes:
    """Return a session with notes as the JSON document that an application without a sidecar would store."""
    session = {"version": 1, "fields": {}, "notes": {"default": MessageToDict(notes)}}
    return json.dumps(session).encode()
