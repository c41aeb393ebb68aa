"""`session-notes mcp` as a host runs it: the real command, over stdio and HTTP, asked by the protocol's own client."""

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult, TextContent, TextResourceContents
from session_notes import AsyncPrimaryClient, Notes, ObserverClient, PrimaryClient, Turn
from session_notes.integrations.mcp import notes_server

from tests.access.callers import TOKENS, Authority, token_files, write_secret
from tests.cli.program import ENV, Cli
from tests.support import CANARY, Sidecar, eventually, free_port, leaks, new_session_id, program

NOTES = Notes(coverage={"goals": 1.0}, summary="Ziele sind klar. Größe fehlt.")
AS_JSON = {"coverage": {"goals": 1.0}, "summary": "Ziele sind klar. Größe fehlt."}
SESSIONS = "session-notes://sessions"
UNAVAILABLE = {"ready": False, "reason": "unavailable"}
NEVER_RUN = {"ready": False, "reason": "never_run"}
# Longer than by default, as tests share a few cores; that nobody listens is known at once all the same.
PATIENTLY = ("mcp", "--timeout", "10s")


@pytest.fixture
def noted(sidecar: Sidecar) -> str:
    """A session with a field, notes on its two turns, and an id that no address can hold as it is."""
    session_id = f"{new_session_id()}/?#%"
    write_notes(sidecar.target, session_id)
    return session_id


def write_notes(target: str, session_id: str) -> None:
    with PrimaryClient(target) as primary, ObserverClient(target) as observer:
        primary.update_session(session_id, {"goal": "refund"})
        primary.append_turns(session_id, [Turn("user", "All of it, by May."), Turn("primary", "Noted.")])
        with observer.run(session_id) as run:
            run.write(NOTES)


class Host:
    """A host of MCP servers that starts the command, and keeps what it writes to stderr."""

    def __init__(self, log: Path) -> None:
        self.log = log

    @asynccontextmanager
    async def over_stdio(self, target: str, *flags: str, mode: str = "auto") -> AsyncIterator[Client]:
        """A client of a server that it talks to on stdin and stdout."""
        command = [*program(), *PATIENTLY, *flags]
        server = StdioServerParameters(command=command[0], args=command[1:], env={"SESSION_NOTES_TARGET": target})
        with self.log.open("a") as log:
            async with Client(stdio_client(server, errlog=log), mode=mode) as client:
                yield client

    @contextmanager
    def listening(self, target: str, *flags: str, listen: str = "127.0.0.1:0") -> Iterator[str]:
        """Where a server listens that was started over HTTP; in the end it stops as it should."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*program(), *PATIENTLY, "--listen", listen, *flags],
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
        found = re.search(r"listening on (\S+)", self.log.read_text())
        return found[1] if found else ""

    @asynccontextmanager
    async def over_http(self, target: str, *flags: str, mode: str = "auto") -> AsyncIterator[Client]:
        """A client of such a server."""
        with self.listening(target, *flags) as url:
            async with Client(url, mode=mode) as client:
                yield client

    @contextmanager
    def by_hand(self, target: str) -> Iterator["Lines"]:
        """Both ends of a server on stdin and stdout, for what no proper client sends."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*program(), *PATIENTLY],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=ENV | {"SESSION_NOTES_TARGET": target},
            )
        try:
            yield Lines(process)
            process.communicate(timeout=20)
            assert process.returncode == 0, self.log.read_text()
        finally:
            process.kill()
            process.wait()


class Lines:
    """Messages to and from a server, after the handshake."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        about: Any = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
        self.send({"id": 0, "method": "initialize", "params": about})
        assert "result" in self.next()
        self.send({"method": "notifications/initialized"})

    def send(self, message: dict[str, Any] | bytes) -> None:
        """Write a message, or a line that is none."""
        line = message if isinstance(message, bytes) else json.dumps({"jsonrpc": "2.0"} | message).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def next(self) -> Any:
        """The next message."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def until_ping(self) -> list[Any]:
        """What comes before the answer to a ping."""
        self.send({"id": "ping", "method": "ping"})
        answers: list[Any] = []
        while (answer := self.next()).get("id") != "ping":
            answers.append(answer)
        return answers


Connect = Callable[..., Any]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path / "log")
    host.log.touch()
    yield host
    log = host.log.read_text()
    assert "Traceback" not in log, log
    assert not leaks(log), log


@pytest.fixture(params=["stdio", "http"])
def connect(request: pytest.FixtureRequest, host: Host) -> Connect:
    """Starts the command and connects to it, in both ways."""
    return host.over_stdio if request.param == "stdio" else host.over_http


async def read(client: Client, uri: str) -> Any:
    """The document at an address."""
    (content,) = (await client.read_resource(uri)).contents
    assert isinstance(content, TextResourceContents)
    assert (content.uri, content.mime_type) == (uri, "application/json")
    return json.loads(content.text)


def told(result: CallToolResult) -> str:
    """What a tool said, to the model."""
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def failure(result: CallToolResult) -> str:
    """What a tool that failed said."""
    assert result.is_error, result
    assert result.structured_content is None
    return told(result)


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answered: to a model as text, to a program as a document. The client checks it against the schema."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    assert json.loads(told(result)) == result.structured_content
    return result.structured_content


async def test_tools_and_resources_of_all_sessions(connect: Connect, sidecar: Sidecar, noted: str) -> None:
    """A host finds all tools, each read-only and with schemas, and reads with each of them."""
    async with connect(sidecar.target) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        notes = await call(client, "get_notes", session_id=noted, max_turns_behind=0)
        session = await call(client, "get_session", session_id=noted, include_turns=True)
        runs = await call(client, "list_runs", session_id=noted, include_notes=True)
        batch = await call(client, "batch_get_notes", session_ids=[noted, "s1"])
        sessions = await call(client, "list_sessions")

    assert set(tools) == {"get_notes", "get_session", "list_runs", "batch_get_notes", "list_sessions"}
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert tool.output_schema is not None
    assert {notes.pop("age_seconds") < 60, notes.pop("snapshot_age_seconds") < 60} == {True}
    assert notes == {"ready": True, "turns_behind": 0, "fresh": True, "notes": AS_JSON}
    assert (session["session_id"], session["fields"], session["turn_count"]) == (noted, {"goal": "refund"}, 2)
    assert [turn["text"] for turn in session["turns"]] == ["All of it, by May.", "Noted."]
    assert session["notes"]["default"]["notes"] == AS_JSON
    assert [(run["number"], run["state"], run["notes"]) for run in runs["runs"]] == [(1, "written", AS_JSON)]
    assert [(one["session_id"], one["ready"]) for one in batch["readings"]] == [(noted, True), ("s1", False)]
    assert noted in [one["session_id"] for one in sessions["sessions"]]
    assert sessions["more"] is False


async def test_resources_of_all_sessions(connect: Connect, sidecar: Sidecar, noted: str) -> None:
    """A host finds the sessions there are, and the form of each address; what it reads there is what the tools say."""
    address = f"{SESSIONS}/{quote(noted, safe='')}"
    async with connect(sidecar.target) as client:
        listed = [str(one.uri) for one in (await client.list_resources()).resources]
        templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
        session = await read(client, address)
        transcript = await read(client, f"{address}/transcript")
        notes = await read(client, f"{address}/notes/default")
        other = await read(client, f"{address}/notes/other")

    assert address in listed
    assert templates == [
        f"{SESSIONS}/{{session_id}}",
        f"{SESSIONS}/{{session_id}}/transcript",
        f"{SESSIONS}/{{session_id}}/notes/{{observer}}",
    ]
    assert session["fields"] == {"goal": "refund"}
    assert "turns" not in session
    assert [turn["speaker"] for turn in transcript["turns"]] == ["user", "primary"]
    assert notes["notes"] == AS_JSON
    assert other == NEVER_RUN


async def test_a_host_that_speaks_the_protocol_of_before_2026(connect: Connect, sidecar: Sidecar, noted: str) -> None:
    """Most hosts still begin with a handshake; they read the same."""
    async with connect(sidecar.target, mode="legacy") as client:
        assert client.protocol_version < "2026"
        assert len((await client.list_tools()).tools) == 5
        assert (await call(client, "get_notes", session_id=noted))["notes"] == AS_JSON
        assert (await read(client, f"{SESSIONS}/{quote(noted, safe='')}/notes/default"))["notes"] == AS_JSON
        with pytest.raises(MCPError, match="no such session"):
            await client.read_resource(f"{SESSIONS}/{new_session_id()}")


async def test_a_server_of_one_session_knows_no_other(connect: Connect, sidecar: Sidecar, noted: str) -> None:
    """Pinned to a session, tools take no id, and neither a tool nor an address leads to another session."""
    write_notes(sidecar.target, other := new_session_id())
    async with connect(sidecar.target, "--session", noted) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"get_notes", "get_session", "list_runs"}
        assert all("session_id" not in tool.input_schema["properties"] for tool in tools.values())
        assert (await call(client, "get_notes"))["notes"] == AS_JSON
        assert (await call(client, "get_session"))["session_id"] == noted
        assert len((await call(client, "list_runs"))["runs"]) == 1

        for tool in tools:
            assert "session_id" in failure(await client.call_tool(tool, {"session_id": other}))
        for absent in ("batch_get_notes", "list_sessions"):
            with pytest.raises(MCPError, match="no such tool"):
                await client.call_tool(absent, {"session_ids": [other]})

        listed = [str(one.uri) for one in (await client.list_resources()).resources]
        templates = [one.uri_template for one in (await client.list_resource_templates()).resource_templates]
        assert all(uri.startswith(f"{SESSIONS}/{quote(noted, safe='')}") for uri in listed + templates)
        for uri in listed:
            assert await read(client, uri)
        for uri in (f"{SESSIONS}/{other}", f"{SESSIONS}/{other}/transcript", f"{SESSIONS}/{other}/notes/default"):
            with pytest.raises(MCPError, match="no such session"):
                await client.read_resource(uri)


async def test_an_outage_is_said_to_be_one(connect: Connect) -> None:
    """Once the sidecar is gone, notes are `unavailable`, never missing; all else is an error that says so."""
    with Sidecar() as sidecar:
        write_notes(sidecar.target, session_id := new_session_id())
        async with connect(sidecar.target) as client:
            assert (await call(client, "get_notes", session_id=session_id))["ready"]

            sidecar.kill()

            assert await call(client, "get_notes", session_id=session_id) == UNAVAILABLE
            assert await read(client, f"{SESSIONS}/{session_id}/notes/default") == UNAVAILABLE
            batch = await call(client, "batch_get_notes", session_ids=[session_id])
            assert batch == {"readings": [{"session_id": session_id} | UNAVAILABLE]}
            for tool, arguments in (("get_session", {"session_id": session_id}), ("list_sessions", {})):
                assert "cannot be reached" in failure(await client.call_tool(tool, arguments))
            with pytest.raises(MCPError, match="cannot be reached"):
                await client.read_resource(f"{SESSIONS}/{session_id}")
            with pytest.raises(MCPError, match="cannot be reached"):
                await client.list_resources()

            # Back where it was, it is found again.
            sidecar.start()
            async with asyncio.timeout(30):
                while (await client.call_tool("get_session", {"session_id": session_id})).is_error:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)


async def test_a_sidecar_need_not_be_there_yet(host: Host) -> None:
    """A host starts its servers when it likes."""
    async with host.over_stdio(f"127.0.0.1:{free_port()}") as client:
        assert await call(client, "get_notes", session_id="s1") == UNAVAILABLE


@asynccontextmanager
async def here(sidecar: Sidecar) -> AsyncIterator[Client]:
    """A client of a server in this process: for the many that only differ in what is asked."""
    primary = AsyncPrimaryClient(sidecar.target, timeout=timedelta(seconds=10))
    async with primary, Client(notes_server(primary)) as client:
        yield client


async def test_a_session_that_is_not_there(sidecar: Sidecar, session_id: str) -> None:
    """Of a session nobody wrote to, notes are not ready, there are no runs, and there is nothing else to read."""
    async with here(sidecar) as client:
        assert await call(client, "get_notes", session_id=session_id) == NEVER_RUN
        assert await call(client, "list_runs", session_id=session_id) == {"runs": []}
        assert (
            failure(await client.call_tool("get_session", {"session_id": session_id}))
            == "no such session; check the id"
        )
        one = f"{SESSIONS}/{session_id}"
        for uri in (one, f"{one}/transcript", f"{one}/notes/", f"{SESSIONS}/", SESSIONS, "session-notes://other"):
            with pytest.raises(MCPError, match="no such session"):
                await client.read_resource(uri)


@pytest.mark.parametrize(
    ("tool", "arguments", "names"),
    [
        ("get_notes", {}, "session_id"),
        ("get_notes", {"session_id": "no good"}, "session_id"),
        ("get_notes", {"session_id": 7}, "session_id"),
        ("get_notes", {"session_id": "s1", "observer": "no good"}, "observer"),
        ("get_notes", {"session_id": "s1", "max_age_seconds": -1}, "max_age_seconds"),
        ("get_notes", {"session_id": "s1", "max_turns_behind": "many"}, "max_turns_behind"),
        ("get_notes", {"session_id": "s1", "max_age": 3}, "max_age"),
        ("get_session", {"session_id": "s1", "include_turns": "perhaps"}, "include_turns"),
        ("list_runs", {"session_id": ""}, "session_id"),
        ("batch_get_notes", {"session_ids": []}, "session_ids"),
        ("batch_get_notes", {"session_ids": ["s1", "no good"]}, "requests[1].session_id"),
        ("list_sessions", {"page_size": 3}, "page_size"),
    ],
)
async def test_a_wrong_argument_is_told_by_its_name(
    sidecar: Sidecar, tool: str, arguments: dict[str, Any], names: str
) -> None:
    """A model that asks wrongly reads what was wrong, and can ask again."""
    async with here(sidecar) as client:
        said = failure(await client.call_tool(tool, arguments))

    assert names in said
    assert "\n" not in said


class Faulty(AsyncPrimaryClient):
    """A client with a bug."""

    async def get_session(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(CANARY)

    def list_sessions(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(CANARY)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_of_a_bug_nobody_reads_more_than_that_there_is_one(
    mode: str, sidecar: Sidecar, caplog: pytest.LogCaptureFixture
) -> None:
    """No text of an exception reaches a host, a model or a log; the log says what kind it was."""
    async with Faulty(sidecar.target) as primary, Client(notes_server(primary), mode=mode) as client:
        assert (
            failure(await client.call_tool("get_session", {"session_id": "s1"}))
            == "session-notes failed with an internal error; continue without it"
        )
        with pytest.raises(MCPError, match="session-notes failed with an internal error; continue without it"):
            await client.read_resource(f"{SESSIONS}/s1")
        with pytest.raises(MCPError, match="session-notes failed with an internal error; continue without it"):
            await client.list_resources()

    assert caplog.text.count("a read failed: RuntimeError") == 3
    assert CANARY not in caplog.text


async def test_whole_numbers_reach_a_model_as_such(sidecar: Sidecar, session_id: str) -> None:
    """An order's number is 4711, not 4711.0, in notes, fields and turns, from tools and resources."""
    with PrimaryClient(sidecar.target) as primary, ObserverClient(sidecar.target) as observer:
        primary.update_session(session_id, {"order": {"id": 4711}})
        primary.append_turns(session_id, [Turn("user", "x", extra={"ms": 1200})])
        with observer.run(session_id) as run:
            run.write(Notes(extra={"orders": [4711]}))
    async with here(sidecar) as client:
        result = await client.call_tool("get_session", {"session_id": session_id, "include_turns": True})
        resource = (await client.read_resource(f"{SESSIONS}/{session_id}/transcript")).contents[0]
    assert isinstance(resource, TextResourceContents)
    for text in (told(result), resource.text, json.dumps(result.structured_content)):
        assert '"orders": [4711]' in text
        assert '{"id": 4711}' in text
        assert '{"ms": 1200}' in text


class Hanging:
    """A sidecar that takes connections and never answers."""

    def __init__(self, server: socket.socket) -> None:
        self._server = server
        self._taken: list[socket.socket] = []
        self.target = f"127.0.0.1:{server.getsockname()[1]}"

    def wait_for_a_call(self) -> None:
        """Return once it has been called."""
        self._taken.append(self._server.accept()[0])

    def close(self) -> None:
        """Hang up."""
        for connection in self._taken:
            connection.close()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
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


@pytest.mark.parametrize("read", READS)
def test_a_call_that_its_client_cancels(host: Host, hanging: Hanging, read: Any) -> None:
    """The server goes on serving, and the cancelled call gets no answer: in its middle, at once, or long ago."""
    with host.by_hand(hanging.target) as server:
        server.send({"id": 1} | read)
        hanging.wait_for_a_call()
        server.send({"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "too slow"}})
        server.send({"id": 2} | read)
        server.send({"method": "notifications/cancelled", "params": {"requestId": 2}})
        server.send({"method": "notifications/cancelled", "params": {"requestId": 2}})
        assert server.until_ping() == []
        server.send({"id": 3, "method": "tools/list"})
        assert server.next()["id"] == 3


def test_what_no_client_should_send(host: Host, sidecar: Sidecar) -> None:
    """Lines that are no message, unknown methods, and requests without what they need: the server goes on serving."""
    with host.by_hand(sidecar.target) as server:
        for line in (b"not json", b"\xff\xfe", b"", b"[]", b"null", b"{}", b'{"jsonrpc":"2.0"}', b"[" * 9999):
            server.send(line)
        server.send({"method": "notifications/cancelled"})
        server.send({"method": "notifications/cancelled", "params": {"requestId": "nobody's"}})
        server.send({"id": 7, "result": {}})
        requests: list[dict[str, Any]] = [
            {"method": "nothing/here"},
            {"method": "tools/call"},
            {"method": "tools/call", "params": {"name": 7, "arguments": []}},
            {"method": "tools/call", "params": {"name": "get_notes"}},
            {"method": "resources/read"},
            {"method": "resources/read", "params": {"uri": f"{SESSIONS}/%ff"}},
        ]
        for number, request in enumerate(requests, 1):
            server.send({"id": number} | request)
        answers = {answer["id"]: answer for answer in (server.next() for _ in range(6))}
        assert server.until_ping() == []
    assert {number for number in answers if "error" in answers[number]} == {1, 2, 3, 5, 6}
    assert answers[4]["result"]["isError"]


def test_a_host_that_leaves_in_the_middle_of_a_call(host: Host, hanging: Hanging) -> None:
    """It ends as if nothing had been asked."""
    with host.by_hand(hanging.target) as server:
        server.send({"id": 1} | READS[0])
        hanging.wait_for_a_call()


async def test_a_caller_over_http_that_hangs_up(host: Host, hanging: Hanging) -> None:
    """Others are served on, and the server stops as it should."""
    accept = {"Accept": "application/json, text/event-stream"}
    with host.listening(hanging.target) as url:
        async with httpx2.AsyncClient() as web:
            asking = asyncio.ensure_future(web.post(url, json={"jsonrpc": "2.0", "id": 1} | READS[0], headers=accept))
            await asyncio.to_thread(hanging.wait_for_a_call)
            asking.cancel()
            await asyncio.wait([asking])
        async with Client(url) as client:
            assert len((await client.list_tools()).tools) == 5


@pytest.mark.parametrize("role", ["primary", "admin", None])
async def test_a_server_may_what_its_own_token_permits(host: Host, tmp_path: Path, role: str | None) -> None:
    """With a primary's token it reads sessions and lists none; without one that is known it says so."""
    secret = write_secret(tmp_path / "token", TOKENS[role] if role else "canary-wrong")
    with Sidecar(flags=["--tokens-dir", str(token_files(tmp_path / "tokens"))]) as sidecar:
        flags = ("--token-file", str(secret))
        async with host.over_stdio(sidecar.target, *flags) as client:
            if role is None:
                assert "not allowed" in failure(await client.call_tool("get_notes", {"session_id": "s1"}))
                return
            assert await call(client, "get_notes", session_id="s1") == NEVER_RUN
            listed = (await client.list_resources()).resources
            result = await client.call_tool("list_sessions")
            assert listed == []
            if role == "admin":
                assert result.structured_content == {"sessions": [], "more": False}
            else:
                assert "not allowed" in failure(result)


async def test_callers_over_http_need_a_token_that_may_read(host: Host, sidecar: Sidecar, tmp_path: Path) -> None:
    """With --tokens-dir, callers without a token, or with one that may not read, are sent away."""
    tokens = token_files(tmp_path / "tokens")
    with host.listening(sidecar.target, "--tokens-dir", str(tokens)) as url:
        async with httpx2.AsyncClient() as web:
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKENS['observer']}"}):
                answer = await web.post(url, json={}, headers=header)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        headers = {"Authorization": f"Bearer {TOKENS['primary']}"}
        async with (
            httpx2.AsyncClient(headers=headers) as web,
            Client(streamable_http_client(url, http_client=web)) as client,
        ):
            assert await call(client, "get_notes", session_id=new_session_id()) == NEVER_RUN


async def test_a_web_page_cannot_call_by_a_name_of_its_own(host: Host, sidecar: Sidecar) -> None:
    """A name that is not this machine's is refused, and so is another site's page."""
    with host.listening(sidecar.target, "--host", "notes.example.org") as url:
        port = url.rpartition(":")[2].partition("/")[0]
        async with httpx2.AsyncClient() as web:

            async def status(**headers: str) -> int:
                body = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
                accept = {"Accept": "application/json, text/event-stream"}
                return (await web.post(url, json=body, headers=accept | headers)).status_code

            assert await status(Host=f"rebound.example.com:{port}") == 421
            assert await status(Origin="https://rebound.example.com") == 403
            assert await status(Host=f"notes.example.org:{port}") == 200
            assert await status(Host="notes.example.org", Origin="https://notes.example.org") == 200
            assert await status() == 200


async def test_of_what_goes_wrong_a_log_has_no_more_than_its_kind(host: Host, sidecar: Sidecar) -> None:
    """A caller that leaves in the middle, and what is no message at all: no traceback, and not a word of it."""
    with host.listening(sidecar.target) as url:
        async with httpx2.AsyncClient() as web:
            answer = await web.post(url, content=f"{{{CANARY}", headers={"Content-Type": "application/json"})
            assert answer.status_code == 400
        port = int(url.rpartition(":")[2].partition("/")[0])
        head = f"POST /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
        head += "Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(f"{head}{CANARY}".encode())
        eventually(lambda: "ClientDisconnect" in host.log.read_text(), 30)


async def test_an_open_address_with_token_and_tls(host: Host, sidecar: Sidecar, tmp_path: Path) -> None:
    """Where other machines can call, callers need a token, and what they send is encrypted."""
    authority = Authority(tmp_path / "authority")
    mine = authority.issue("mcp", "localhost")
    flags = ["--tokens-dir", str(token_files(tmp_path / "tokens"))]
    flags += ["--listen-tls-cert", str(mine.cert), "--listen-tls-key", str(mine.key)]
    headers = {"Authorization": f"Bearer {TOKENS['primary']}"}
    trust = ssl.create_default_context(cafile=str(authority.path))
    with host.listening(sidecar.target, *flags, listen="0.0.0.0:0") as url:
        assert url.startswith("https://0.0.0.0:")
        url = url.replace("0.0.0.0", "localhost")
        web = httpx2.AsyncClient(headers=headers, verify=trust)
        async with web, Client(streamable_http_client(url, http_client=web)) as client:
            assert await call(client, "get_notes", session_id=new_session_id()) == NEVER_RUN


@pytest.mark.parametrize(
    ("code", "says", "flags"),
    [
        (2, "--tokens-dir", ["--listen", "0.0.0.0:0"]),
        (2, "--tokens-dir", ["--listen", "[::]:0", "--insecure-listen"]),
        (2, "--tokens-dir", ["--listen", ":8765"]),
        (2, "--listen-tls-cert", ["--listen", "0.0.0.0:0", "--tokens-dir", "TOKENS"]),
        (2, "host:port", ["--listen", "unix:/tmp/mcp.sock"]),
        (2, "host:port", ["--listen", "localhost"]),
        (2, "give both a certificate", ["--listen", "127.0.0.1:0", "--listen-tls-key", "key"]),
        (2, "--listen", ["--tokens-dir", "TOKENS"]),
        (2, "--listen", ["--host", "notes.example.org"]),
        (1, "no token", ["--listen", "127.0.0.1:0", "--tokens-dir", "EMPTY"]),
        (
            1,
            "does not exist",
            ["--listen", "127.0.0.1:0", "--listen-tls-cert", "EMPTY/cert", "--listen-tls-key", "EMPTY/key"],
        ),
        (1, "is taken", ["--listen", "TAKEN"]),
    ],
)
def test_what_it_refuses_to_start_with(
    sidecar: Sidecar, tmp_path: Path, code: int, says: str, flags: list[str]
) -> None:
    """An address open to others without a token, or in the clear, and whatever else cannot be meant."""
    (tmp_path / "empty").mkdir(mode=0o700)
    names = {"TOKENS": str(token_files(tmp_path / "tokens")), "EMPTY": str(tmp_path / "empty"), "TAKEN": sidecar.target}
    given = [re.sub("|".join(names), lambda found: names[found[0]], flag) for flag in flags]

    ended = Cli(sidecar.target).here("mcp", *given)

    assert (ended.code, says in ended.err) == (code, True), ended
    assert "Traceback" not in ended.err


def test_without_the_package_it_says_how_to_get_it(tmp_path: Path) -> None:
    """The command is there without the extra, and names it."""
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")

    ended = Cli("127.0.0.1:1")("mcp", env={"PYTHONPATH": str(tmp_path)})

    assert ended.code == 1
    assert "pip install '.[mcp]' in its checkout" in ended.error


async def test_the_configuration_in_the_docs_starts_a_server(host: Host, sidecar: Sidecar, noted: str) -> None:
    """What a reader copies into a desktop host's configuration works, but for the path and the port."""
    docs = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
    (block,) = re.findall(r"^```json\n(\{\n.*?)^```", docs, re.MULTILINE | re.DOTALL)
    entry = json.loads(block)["mcpServers"]["session-notes"]
    assert entry["env"] == {"SESSION_NOTES_TARGET": "127.0.0.1:50051"}
    assert program()[0].endswith(entry["command"])
    server = StdioServerParameters(**entry | {"command": program()[0], "env": {"SESSION_NOTES_TARGET": sidecar.target}})
    with host.log.open("a") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            assert (await call(client, "get_session", session_id=noted))["turn_count"] == 2


def test_it_ends_with_its_host(sidecar: Sidecar) -> None:
    """Where the host closes stdin, the server ends."""
    environment = os.environ | {"SESSION_NOTES_TARGET": sidecar.target}
    ended = subprocess.run(
        [*program(), "mcp"], stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=30
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
