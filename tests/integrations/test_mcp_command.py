"""The command `session-notes mcp`: access over HTTP, rejected flags, and its lifetime with a host."""

import json
import os
import re
import socket
import ssl
import subprocess
from pathlib import Path

import httpx2
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from tests.access.callers import TOKENS, Authority, token_files
from tests.cli.program import Cli
from tests.integrations.mcp_hosts import NEVER_RUN, Host, call, host, noted_session
from tests.support import CANARY, Sidecar, eventually, new_session_id, program

__all__ = ["host", "noted_session"]


async def test_http_callers_need_a_token(host: Host, sidecar: Sidecar, tmp_path: Path) -> None:
    """With --tokens-dir, callers without a token, or with one of another role, get 401."""
    tokens = token_files(tmp_path / "tokens")
    with host.listening(sidecar.target, "--tokens-dir", str(tokens)) as url:
        async with httpx2.AsyncClient() as web:
            for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {TOKENS['observer']}"}):
                response = await web.post(url, json={}, headers=header)
                assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
        headers = {"Authorization": f"Bearer {TOKENS['primary']}"}
        async with (
            httpx2.AsyncClient(headers=headers) as web,
            Client(streamable_http_client(url, http_client=web)) as client,
        ):
            assert await call(client, "get_notes", session_id=new_session_id()) == NEVER_RUN


async def test_host_and_origin_are_checked(host: Host, sidecar: Sidecar) -> None:
    """Requests for another name, and from the pages of other sites, are rejected."""
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


async def test_log_has_no_request_data(host: Host, sidecar: Sidecar) -> None:
    """A broken request and a caller that disconnects leave neither a traceback nor their data in the log."""
    with host.listening(sidecar.target) as url:
        async with httpx2.AsyncClient() as web:
            response = await web.post(url, content=f"{{{CANARY}", headers={"Content-Type": "application/json"})
            assert response.status_code == 400
        port = int(url.rpartition(":")[2].partition("/")[0])
        head = f"POST /mcp HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
        head += "Accept: application/json, text/event-stream\r\nContent-Length: 1000\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as caller:
            caller.sendall(f"{head}{CANARY}".encode())
        eventually(lambda: "ClientDisconnect" in host.log.read_text(), 30)


async def test_public_address(host: Host, sidecar: Sidecar, tmp_path: Path) -> None:
    """On an address that other machines can reach, callers need a token and TLS."""
    authority = Authority(tmp_path / "authority")
    certificate = authority.issue("mcp", "localhost")
    flags = ["--tokens-dir", str(token_files(tmp_path / "tokens"))]
    flags += ["--listen-tls-cert", str(certificate.cert), "--listen-tls-key", str(certificate.key)]
    headers = {"Authorization": f"Bearer {TOKENS['primary']}"}
    trust = ssl.create_default_context(cafile=str(authority.path))
    with host.listening(sidecar.target, *flags, listen="0.0.0.0:0") as url:
        assert url.startswith("https://0.0.0.0:")
        url = url.replace("0.0.0.0", "localhost")
        web = httpx2.AsyncClient(headers=headers, verify=trust)
        async with web, Client(streamable_http_client(url, http_client=web)) as client:
            assert await call(client, "get_notes", session_id=new_session_id()) == NEVER_RUN


@pytest.mark.parametrize(
    ("code", "error", "flags"),
    [
        (2, "--tokens-dir", ["--listen", "0.0.0.0:0"]),
        (2, "--tokens-dir", ["--listen", "[::]:0", "--insecure-listen"]),
        (2, "--tokens-dir", ["--listen", ":8765"]),
        (2, "--listen-tls-cert", ["--listen", "0.0.0.0:0", "--tokens-dir", "TOKENS"]),
        (2, "host:port", ["--listen", "unix:/tmp/mcp.sock"]),
        (2, "host:port", ["--listen", "localhost"]),
        (2, "must be given together with", ["--listen", "127.0.0.1:0", "--listen-tls-key", "key"]),
        (2, "--listen", ["--tokens-dir", "TOKENS"]),
        (2, "--listen", ["--host", "notes.example.org"]),
        (1, "no token", ["--listen", "127.0.0.1:0", "--tokens-dir", "EMPTY"]),
        (
            1,
            "does not exist",
            ["--listen", "127.0.0.1:0", "--listen-tls-cert", "EMPTY/cert", "--listen-tls-key", "EMPTY/key"],
        ),
        (1, "is in use", ["--listen", "TAKEN"]),
    ],
)
def test_rejected_flags(sidecar: Sidecar, tmp_path: Path, code: int, error: str, flags: list[str]) -> None:
    """A public address without tokens or TLS, and flags that conflict or name unusable files, are errors."""
    (tmp_path / "empty").mkdir(mode=0o700)
    names = {"TOKENS": str(token_files(tmp_path / "tokens")), "EMPTY": str(tmp_path / "empty"), "TAKEN": sidecar.target}
    arguments = [re.sub("|".join(names), lambda match: names[match[0]], flag) for flag in flags]

    done = Cli(sidecar.target).in_process("mcp", *arguments)

    assert (done.code, error in done.err) == (code, True), done
    assert "Traceback" not in done.err


def test_missing_package(tmp_path: Path) -> None:
    """Without the extra `mcp`, the command exits with 1 and names it."""
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError(\"No module named 'mcp'\", name='mcp')\n")

    done = Cli("127.0.0.1:1")("mcp", env={"PYTHONPATH": str(tmp_path)})

    assert done.code == 1
    assert "pip install '.[mcp]' in its checkout" in done.error


async def test_documented_configuration(host: Host, sidecar: Sidecar, noted_session: str) -> None:
    """The host configuration in docs/integrations.md starts a server, given this machine's path and port."""
    docs = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text()
    (block,) = re.findall(r"^```json\n(\{\n.*?)^```", docs, re.MULTILINE | re.DOTALL)
    entry = json.loads(block)["mcpServers"]["session-notes"]
    assert entry["env"] == {"SESSION_NOTES_TARGET": "127.0.0.1:50051"}
    assert program()[0].endswith(entry["command"])
    server = StdioServerParameters(**entry | {"command": program()[0], "env": {"SESSION_NOTES_TARGET": sidecar.target}})
    with host.log.open("a") as log:
        async with Client(stdio_client(server, errlog=log)) as client:
            assert (await call(client, "get_session", session_id=noted_session))["turn_count"] == 2


def test_server_exits_with_its_host(sidecar: Sidecar) -> None:
    """The server exits with 0 when the host closes stdin."""
    environment = os.environ | {"SESSION_NOTES_TARGET": sidecar.target}
    done = subprocess.run(
        [*program(), "mcp"], stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=30
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
