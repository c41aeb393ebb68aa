"""The tools and resources of `session-notes mcp`, read with the protocol's own client over stdio and HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import pytest
from mcp import Client, MCPError
from mcp.types import TextResourceContents
from session_notes import AsyncPrimaryClient, Issue, Notes, ObserverClient, PrimaryClient, Severity, Turn
from session_notes.integrations.mcp import notes_server
from session_notes.integrations.mcp._reader import MAX_LISTED
from session_notes_server.store.limits import HISTORY_RUNS, TRANSCRIPT_TURNS

from tests.access.callers import TOKENS, token_files, write_secret
from tests.integrations.mcp_hosts import (
    AS_JSON,
    NEVER_RUN,
    SESSIONS,
    UNAVAILABLE,
    Connect,
    Host,
    call,
    connect,
    failure,
    host,
    noted_session,
    read,
    text_of,
    write_notes,
)
from tests.support import CANARY, Sidecar, free_port, new_session_id

__all__ = ["connect", "host", "noted_session"]


async def test_tools_of_all_sessions(connect: Connect, sidecar: Sidecar, noted_session: str) -> None:
    """Every tool is read-only, has schemas and returns its document."""
    async with connect(sidecar.target) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        notes = await call(client, "get_notes", session_id=noted_session, max_turns_behind=0)
        session = await call(client, "get_session", session_id=noted_session, include_turns=True)
        runs = await call(client, "list_runs", session_id=noted_session, include_notes=True)
        batch = await call(client, "batch_get_notes", session_ids=[noted_session, "s1"])
        sessions = await call(client, "list_sessions")

    assert set(tools) == {"get_notes", "get_session", "list_runs", "batch_get_notes", "list_sessions"}
    for tool in tools.values():
        assert tool.annotations is not None
        assert tool.annotations.read_only_hint
        assert tool.output_schema is not None
    assert {notes.pop("age_seconds") < 60, notes.pop("snapshot_age_seconds") < 60} == {True}
    assert notes == {"ready": True, "turns_behind": 0, "fresh": True, "notes": AS_JSON}
    assert (session["session_id"], session["fields"], session["turn_count"]) == (noted_session, {"goal": "refund"}, 2)
    assert [turn["text"] for turn in session["turns"]] == ["All of it, by May.", "Noted."]
    assert session["notes"]["default"]["notes"] == AS_JSON
    assert [(run["number"], run["state"], run["notes"]) for run in runs["runs"]] == [(1, "written", AS_JSON)]
    assert [(reading["session_id"], reading["ready"]) for reading in batch["readings"]] == [
        (noted_session, True),
        ("s1", False),
    ]
    assert noted_session in [summary["session_id"] for summary in sessions["sessions"]]
    assert sessions["more"] is False


async def test_a_severity_filters(connect: Connect, sidecar: Sidecar, session_id: str) -> None:
    """A host can leave out less severe issues."""
    with ObserverClient(sidecar.target) as observer:
        observer.write_notes(session_id, Notes(issues=[Issue("urgent", Severity.CRITICAL), Issue("later")]))
    async with connect(sidecar.target) as client:
        notes = await call(client, "get_notes", session_id=session_id, min_severity="warning")
        batch = await call(client, "batch_get_notes", session_ids=[session_id], min_severity="warning")
    urgent = {"issues": [{"text": "urgent", "severity": "critical"}]}
    assert notes["notes"] == batch["readings"][0]["notes"] == urgent


async def test_resources_of_all_sessions(connect: Connect, sidecar: Sidecar, noted_session: str) -> None:
    """Stored sessions and URI templates are listed. Resources have the same documents as the tools."""
    address = f"{SESSIONS}/{quote(noted_session, safe='')}"
    async with connect(sidecar.target) as client:
        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
        templates = [template.uri_template for template in (await client.list_resource_templates()).resource_templates]
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


async def test_host_with_the_protocol_before_2026(connect: Connect, sidecar: Sidecar, noted_session: str) -> None:
    """Hosts that begin with a handshake, as most still do, read the same documents."""
    async with connect(sidecar.target, mode="legacy") as client:
        assert client.protocol_version < "2026"
        assert len((await client.list_tools()).tools) == 5
        assert (await call(client, "get_notes", session_id=noted_session))["notes"] == AS_JSON
        assert (await read(client, f"{SESSIONS}/{quote(noted_session, safe='')}/notes/default"))["notes"] == AS_JSON
        with pytest.raises(MCPError, match="no such session"):
            await client.read_resource(f"{SESSIONS}/{new_session_id()}")


async def test_server_of_one_session(connect: Connect, sidecar: Sidecar, noted_session: str) -> None:
    """With --session, tools take no id, and no tool or resource reads another session."""
    write_notes(sidecar.target, other := new_session_id())
    async with connect(sidecar.target, "--session", noted_session) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"get_notes", "get_session", "list_runs"}
        assert all("session_id" not in tool.input_schema["properties"] for tool in tools.values())
        assert (await call(client, "get_notes"))["notes"] == AS_JSON
        assert (await call(client, "get_session"))["session_id"] == noted_session
        assert len((await call(client, "list_runs"))["runs"]) == 1

        for tool in tools:
            assert "session_id" in failure(await client.call_tool(tool, {"session_id": other}))
        for absent in ("batch_get_notes", "list_sessions"):
            with pytest.raises(MCPError, match="no such tool"):
                await client.call_tool(absent, {"session_ids": [other]})

        listed = [str(resource.uri) for resource in (await client.list_resources()).resources]
        templates = [template.uri_template for template in (await client.list_resource_templates()).resource_templates]
        assert all(uri.startswith(f"{SESSIONS}/{quote(noted_session, safe='')}") for uri in listed + templates)
        for uri in listed:
            assert await read(client, uri)
        for uri in (f"{SESSIONS}/{other}", f"{SESSIONS}/{other}/transcript", f"{SESSIONS}/{other}/notes/default"):
            with pytest.raises(MCPError, match="no such session"):
                await client.read_resource(uri)


async def test_outage(connect: Connect) -> None:
    """Without the sidecar, notes are `unavailable`, and other reads are errors that name the cause."""
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

            # The server reconnects after the sidecar restarts.
            sidecar.start()
            async with asyncio.timeout(30):
                while (await client.call_tool("get_session", {"session_id": session_id})).is_error:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)


async def test_server_starts_without_a_sidecar(host: Host) -> None:
    """A host may start the server before the sidecar."""
    async with host.over_stdio(f"127.0.0.1:{free_port()}") as client:
        assert await call(client, "get_notes", session_id="s1") == UNAVAILABLE


@asynccontextmanager
async def in_process(sidecar: Sidecar) -> AsyncIterator[Client]:
    """Yield a client of a server in this process, which is faster to start."""
    primary = AsyncPrimaryClient(sidecar.target, timeout=timedelta(seconds=10))
    async with primary, Client(notes_server(primary)) as client:
        yield client


async def test_unknown_session(sidecar: Sidecar, session_id: str) -> None:
    """Notes of an unknown session are not ready, its runs are empty, and other reads are errors."""
    async with in_process(sidecar) as client:
        assert await call(client, "get_notes", session_id=session_id) == NEVER_RUN
        assert await call(client, "list_runs", session_id=session_id) == {"runs": []}
        assert (
            failure(await client.call_tool("get_session", {"session_id": session_id}))
            == "no such session; check the id"
        )
        address = f"{SESSIONS}/{session_id}"
        for uri in (
            address,
            f"{address}/transcript",
            f"{address}/notes/",
            f"{SESSIONS}/",
            SESSIONS,
            "session-notes://other",
        ):
            with pytest.raises(MCPError, match="no such session"):
                await client.read_resource(uri)


@pytest.mark.parametrize(
    ("tool", "arguments", "name"),
    [
        ("get_notes", {}, "session_id"),
        ("get_notes", {"session_id": "no good"}, "session_id"),
        ("get_notes", {"session_id": 7}, "session_id"),
        ("get_notes", {"session_id": "s1", "observer": "no good"}, "observer"),
        ("get_notes", {"session_id": "s1", "max_age_seconds": -1}, "max_age_seconds"),
        ("get_notes", {"session_id": "s1", "max_turns_behind": "many"}, "max_turns_behind"),
        ("get_notes", {"session_id": "s1", "min_severity": "urgent"}, "min_severity"),
        ("get_notes", {"session_id": "s1", "max_age": 3}, "max_age"),
        ("get_session", {"session_id": "s1", "include_turns": "perhaps"}, "include_turns"),
        ("list_runs", {"session_id": ""}, "session_id"),
        ("batch_get_notes", {"session_ids": []}, "session_ids"),
        ("batch_get_notes", {"session_ids": ["s1", "no good"]}, "requests[1].session_id"),
        ("list_sessions", {"page_size": 3}, "page_size"),
    ],
)
async def test_invalid_arguments(sidecar: Sidecar, tool: str, arguments: dict[str, Any], name: str) -> None:
    """The failure names the invalid argument on one line, so that the model can correct it."""
    async with in_process(sidecar) as client:
        text = failure(await client.call_tool(tool, arguments))

    assert name in text
    assert "\n" not in text


async def test_documented_limits(sidecar: Sidecar) -> None:
    """The tool descriptions and docs/integrations.md state the limits of the store and of the listing."""
    async with in_process(sidecar) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert f"last {HISTORY_RUNS} runs" in (tools["list_runs"].description or "")
    transcript = tools["get_session"].input_schema["properties"]["include_turns"]["description"]
    assert f"last {TRANSCRIPT_TURNS:,} turns" in transcript
    docs = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
    assert f"last {HISTORY_RUNS} runs" in docs
    assert f"up to {MAX_LISTED} sessions" in docs


class Faulty(AsyncPrimaryClient):
    """A client with a bug."""

    async def get_session(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(CANARY)

    def list_sessions(self, *_: object, **__: object) -> NoReturn:
        raise RuntimeError(CANARY)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_internal_errors(mode: str, sidecar: Sidecar, caplog: pytest.LogCaptureFixture) -> None:
    """The text of an exception reaches neither a host nor the log; the log has its class."""
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


async def test_whole_numbers_stay_whole(sidecar: Sidecar, session_id: str) -> None:
    """A model gets 4711, not 4711.0, in notes, fields and turns, from tools and resources."""
    with PrimaryClient(sidecar.target) as primary, ObserverClient(sidecar.target) as observer:
        primary.update_session(session_id, {"order": {"id": 4711}})
        primary.append_turns(session_id, [Turn("user", "x", extra={"ms": 1200})])
        with observer.run(session_id) as run:
            run.write(Notes(extra={"orders": [4711]}))
    async with in_process(sidecar) as client:
        result = await client.call_tool("get_session", {"session_id": session_id, "include_turns": True})
        resource = (await client.read_resource(f"{SESSIONS}/{session_id}/transcript")).contents[0]
    assert isinstance(resource, TextResourceContents)
    for text in (text_of(result), resource.text, json.dumps(result.structured_content)):
        assert '"orders": [4711]' in text
        assert '{"id": 4711}' in text
        assert '{"ms": 1200}' in text


@pytest.mark.parametrize("role", ["primary", "admin", None])
async def test_servers_own_token(host: Host, tmp_path: Path, role: str | None) -> None:
    """A primary's token permits reads but no listing, an admin's token permits both, an unknown token neither."""
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
