"""The sidecar's contenders: bare gRPC servers, Redis without a sidecar, and servers that a developer would write."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.session_notes_pb2 import GetNotesRequest

from session_notes_tools.bench import documents, echo
from session_notes_tools.bench.caller import REDIS_READ, REDIS_UPDATE
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.processes import free_ports, python, server_process
from session_notes_tools.bench.stores import Store
from session_notes_tools.bench.targets import Target
from session_notes_tools.python_process import ProcessFailed

T = TypeVar("T")


class Contenders:
    """The running contenders.

    Args:
        stack: Stops them at its end.

    Attributes:
        left_out: A line for each contender that did not start.
    """

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.left_out: list[str] = []

    async def start(self, name: str, contender: AbstractAsyncContextManager[T]) -> T | None:
        """Start a contender, or note why it is left out and return None."""
        try:
            return await self._stack.enter_async_context(contender)
        except (BenchError, ProcessFailed) as error:
            line = f"{name}: {error}"
            if error.log:
                line += f"; log: {_write_log(name, error.log)}"
            self.left_out.append(line)
            return None

    async def targets(self, name: str, contender: AbstractAsyncContextManager[Sequence[Target]]) -> Sequence[Target]:
        """Start a contender, and return its targets; none if it is left out."""
        return await self.start(name, contender) or ()


def require_packages(*names: str) -> None:
    """Raise an error unless the packages are installed.

    Raises:
        BenchError: If one is missing.
    """
    if missing := [name for name in names if find_spec(name) is None]:
        raise BenchError(f"not installed: {', '.join(missing)} (in a checkout: pip install '.[server,bench]')")


@contextlib.asynccontextmanager
async def bare_echo(engine: str, response_bytes: int) -> AsyncIterator[Sequence[Target]]:
    """Run a bare gRPC server, and yield its targets over TCP and a unix socket.

    Args:
        engine: `echo.NATIVE` or `echo.GRPC_AIO`.
        response_bytes: The size of its responses.

    Raises:
        BenchError: If it does not start.
    """
    port = free_ports(1)[0]
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        addresses = {"tcp": f"127.0.0.1:{port}", "unix": f"unix:{folder}/echo.sock"}
        command = python("echo", engine, str(response_bytes), *reversed(addresses.values()))
        async with server_process(*command, port=port) as server:
            body = GetNotesRequest(session_id="bench-00000000-0").SerializeToString()
            yield [
                Target(f"bare {engine} ({transport})", "Echo", address, echo.METHOD, (body,), server.pids)
                for transport, address in addresses.items()
            ]


class JSONSessions:
    """Sessions stored as JSON documents, as an application without a sidecar would store them.

    Args:
        store: The store.
        notes: The notes of each session.
        count: The number of sessions.
    """

    def __init__(self, store: Store, notes: Notes, count: int) -> None:
        self.ids = [f"bench-json-{number}" for number in range(count)]
        self.notes = MessageToDict(notes)
        self._session: dict[str, Any] = {"version": 1, "fields": {}, "notes": self.notes}
        self._store = store

    async def fill(self) -> None:
        """Create the sessions."""
        client = documents.Documents(self._store.url)
        for session_id in self.ids:
            await client.put(session_id, self._session)
        await client.close()

    def document(self) -> bytes:
        """Return the document of a session."""
        return _json(self._session)

    def targets(self) -> list[Target]:
        """Return the targets that read and update the sessions with redis-py, without a server between."""
        keys = tuple(session_id.encode() for session_id in self.ids)
        return [
            Target("redis-py, no sidecar", name, self._store.url, name, keys, store=self._store.pid, protocol="redis")
            for name in (REDIS_READ, REDIS_UPDATE)
        ]

    @contextlib.asynccontextmanager
    async def server(self, kind: str) -> AsyncIterator[Sequence[Target]]:
        """Run a server of these sessions as a developer would write it, and yield its targets.

        Args:
            kind: `documents.GRPC_AIO` or `documents.FASTAPI`.

        Raises:
            BenchError: If it does not start.
        """
        if kind == documents.FASTAPI:
            require_packages("fastapi", "uvicorn", "httptools")
        port = free_ports(1)[0]
        async with server_process(*python("documents", kind, self._store.url, str(port)), port=port) as server:
            place, address = f"{kind} and redis-py (tcp)", f"127.0.0.1:{port}"
            processes: dict[str, Any] = {"servers": server.pids, "store": self._store.pid}
            if kind == documents.FASTAPI:
                path = documents.NOTES_PATH.format(session_id=self.ids[0])
                processes["protocol"] = "http"
                yield [
                    Target(place, "read", address, f"GET {path}", (b"",), **processes),
                    Target(place, "write", address, f"POST {path}", (_json(self.notes),), **processes),
                ]
            else:
                reads = tuple(_json({"session_id": id_}) for id_ in self.ids)
                writes = tuple(_json({"session_id": id_, "notes": self.notes}) for id_ in self.ids)
                yield [
                    Target(place, "read", address, documents.READ, reads, **processes),
                    Target(place, "write", address, documents.WRITE, writes, **processes),
                ]


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _write_log(name: str, log: str) -> Path:
    """Write the output of a contender to a file that outlives the bench."""
    prefix = f"session-notes-bench-{re.sub(r'[^a-zA-Z]+', '-', name)}-"
    with tempfile.NamedTemporaryFile("w", prefix=prefix, suffix=".log", delete=False, encoding="utf-8") as file:
        file.write(log)
    return Path(file.name)
