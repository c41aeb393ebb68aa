"""MCP hosts that run `session-notes mcp` over stdio and HTTP, and a sidecar that hangs."""

import json
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.types import CallToolResult, TextContent, TextResourceContents
from session_notes import Notes, ObserverClient, PrimaryClient, Turn

from tests.cli.program import ENV
from tests.support import Sidecar, eventually, leaks, new_session_id, program

NOTES = Notes(coverage={"goals": 1.0}, summary="Ziele sind klar. Größe fehlt.")
AS_JSON = {"coverage": {"goals": 1.0}, "summary": "Ziele sind klar. Größe fehlt."}
SESSIONS = "session-notes://sessions"
UNAVAILABLE = {"ready": False, "reason": "unavailable"}
NEVER_RUN = {"ready": False, "reason": "never_run"}
# Longer than the default, since tests share a few cores. A refused connection still fails immediately.
COMMAND = ("mcp", "--timeout", "10s")


@pytest.fixture
def noted_session(sidecar: Sidecar) -> str:
    """A session with a field, two turns and notes on them, and an id that needs escaping in a URI."""
    session_id = f"{new_session_id()}/?#%"
    write_notes(sidecar.target, session_id)
    return session_id


def write_notes(target: str, session_id: str) -> None:
    """Write a field, two turns and notes."""
    with PrimaryClient(target) as primary, ObserverClient(target) as observer:
        primary.update_session(session_id, {"goal": "refund"})
        primary.append_turns(session_id, [Turn("user", "All of it, by May."), Turn("primary", "Noted.")])
        with observer.run(session_id) as run:
            run.write(NOTES)


class Host:
    """A host that starts the command and logs its stderr."""

    def __init__(self, log: Path) -> None:
        self.log = log

    @asynccontextmanager
    async def over_stdio(self, target: str, *flags: str, mode: str = "auto") -> AsyncIterator[Client]:
        """Start a server on stdin and stdout and yield a client."""
        command = [*program(), *COMMAND, *flags]
        server = StdioServerParameters(command=command[0], args=command[1:], env={"SESSION_NOTES_TARGET": target})
        with self.log.open("a") as log:
            async with Client(stdio_client(server, errlog=log), mode=mode) as client:
                yield client

    @contextmanager
    def listening(self, target: str, *flags: str, listen: str = "127.0.0.1:0") -> Iterator[str]:
        """Start a server over HTTP and yield its URL. At the end, it must exit with 0 on SIGTERM."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*program(), *COMMAND, "--listen", listen, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=ENV | {"SESSION_NOTES_TARGET": target},
            )
        try:
            eventually(lambda: self._address() or process.poll() is not None, 30)
            yield self._address()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0, self.log.read_text()
        finally:
            process.kill()
            process.wait()

    def _address(self) -> str:
        match = re.search(r"listening on (\S+)", self.log.read_text())
        return match[1] if match else ""

    @asynccontextmanager
    async def over_http(self, target: str, *flags: str, mode: str = "auto") -> AsyncIterator[Client]:
        """Start a server over HTTP and yield a client."""
        with self.listening(target, *flags) as url:
            async with Client(url, mode=mode) as client:
                yield client

    @contextmanager
    def raw_stdio(self, target: str) -> Iterator["RawMessages"]:
        """Start a server on stdin and stdout and yield its raw messages, for input that no correct client sends."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*program(), *COMMAND],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=ENV | {"SESSION_NOTES_TARGET": target},
            )
        try:
            yield RawMessages(process)
            process.communicate(timeout=20)
            assert process.returncode == 0, self.log.read_text()
        finally:
            process.kill()
            process.wait()


class RawMessages:
    """Raw messages to and from a server, after the handshake."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        parameters: Any = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "x", "version": "1"},
        }
        self.send({"id": 0, "method": "initialize", "params": parameters})
        assert "result" in self.next()
        self.send({"method": "notifications/initialized"})

    def send(self, message: dict[str, Any] | bytes) -> None:
        """Write a message, or any line."""
        line = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0"} | message).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def next(self) -> Any:
        """Return the next message."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def until_ping(self) -> list[Any]:
        """Return the messages before the response to a ping."""
        self.send({"id": "ping", "method": "ping"})
        messages: list[Any] = []
        while (message := self.next()).get("id") != "ping":
            messages.append(message)
        return messages


Connect = Callable[..., Any]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host whose servers must log neither tracebacks nor user data."""
    host = Host(tmp_path / "log")
    host.log.touch()
    yield host
    log = host.log.read_text()
    assert "Traceback" not in log, log
    assert not leaks(log), log


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, host: Host) -> Connect:
    """Start the command and connect to it, over stdio or HTTP."""
    return host.over_stdio if request.param == "stdio" else host.over_http


async def read(client: Client, uri: str) -> Any:
    """Return the document at a URI."""
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    return json.loads(content.text)


def text_of(result: CallToolResult) -> str:
    """Return the text of a tool's result."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def failure(result: CallToolResult) -> str:
    """Return the text of a tool's failure."""
    assert result.is_error, result
    assert result.structured_content is None
    return text_of(result)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """Return a tool's result, which must be the same as text and as a document. The client checks its schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    assert json.loads(text_of(result)) == result.structured_content
    return result.structured_content


class Hanging:
    """A sidecar that accepts connections and never responds."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._connections: list[socket.socket] = []
        self.target = f"127.0.0.1:{server.getsockname()[1]}"

    def wait_for_call(self) -> None:
        """Return once a client has connected."""
        self._connections.append(self._server.accept()[0])

    def close(self) -> None:
        """Close all connections."""
        for connection in self._connections:
            connection.close()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """A sidecar that hangs."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        hanging = Hanging(server)
        yield hanging
        hanging.close()


READS: list[dict[str, Any]] = [
    {"method": "tools/call", "params": {"name": "get_notes", "arguments": {"session_id": "s1"}}},
    {"method": "tools/call", "params": {"name": "get_session", "arguments": {"session_id": "s1"}}},
    {"method": "resources/read", "params": {"uri": f"{SESSIONS}/s1"}},
    {"method": "resources/list"},
]
