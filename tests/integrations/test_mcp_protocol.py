"""`session-notes mcp` with cancelled calls, invalid messages and hosts that disconnect."""

import asyncio
from typing import Any

import httpx2
import pytest
from mcp import Client

from tests.integrations.mcp_hosts import (
    READS,
    SESSIONS,
    Hanging,
    Host,
    hanging,
    host,
)
from tests.support import Sidecar

__all__ = ["hanging", "host"]


@pytest.mark.parametrize("read", READS)
def test_cancelled_calls(host: Host, hanging: Hanging, read: Any) -> None:
    """A call that is cancelled in flight, immediately or twice gets no response, and the server keeps serving."""
    with host.raw_stdio(hanging.target) as server:
        server.send({"id": 1} | read)
        hanging.wait_for_call()
        server.send({"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "too slow"}})
        server.send({"id": 2} | read)
        server.send({"method": "notifications/cancelled", "params": {"requestId": 2}})
        server.send({"method": "notifications/cancelled", "params": {"requestId": 2}})
        assert server.until_ping() == []
        server.send({"id": 3, "method": "tools/list"})
        assert server.next()["id"] == 3


def test_invalid_messages(host: Host, sidecar: Sidecar) -> None:
    """The server survives invalid lines, and answers unknown methods and incomplete requests with errors."""
    with host.raw_stdio(sidecar.target) as server:
        for line in (b"not json", b"\xff\xfe", b"", b"[]", b"null", b"{}", b'{"jsonrpc":"2.0"}', b"[" * 9999):
            server.send(line)
        server.send({"method": "notifications/cancelled"})
        server.send({"method": "notifications/cancelled", "params": {"requestId": "unknown"}})
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
        responses = {response["id"]: response for response in (server.next() for _ in range(6))}
        assert server.until_ping() == []
    assert {number for number in responses if "error" in responses[number]} == {1, 2, 3, 5, 6}
    assert responses[4]["result"]["isError"]


def test_host_that_disconnects_during_a_call(host: Host, hanging: Hanging) -> None:
    """The server exits with 0 when the host disconnects."""
    with host.raw_stdio(hanging.target) as server:
        server.send({"id": 1} | READS[0])
        hanging.wait_for_call()


async def test_http_caller_that_disconnects(host: Host, hanging: Hanging) -> None:
    """The server keeps serving other callers and stops cleanly."""
    accept = {"Accept": "application/json, text/event-stream"}
    with host.listening(hanging.target) as url:
        async with httpx2.AsyncClient() as web:
            request = asyncio.ensure_future(web.post(url, json={"jsonrpc": "2.0", "id": 1} | READS[0], headers=accept))
            await asyncio.to_thread(hanging.wait_for_call)
            request.cancel()
            await asyncio.wait([request])
        async with Client(url) as client:
            assert len((await client.list_tools()).tools) == 5
