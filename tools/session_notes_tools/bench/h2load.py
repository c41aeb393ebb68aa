"""h2load (Debian package nghttp2-client) as a load generator so cheap that the server is the bottleneck."""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
from pathlib import Path

from session_notes_tools.bench.cpu import CPUTime
from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.measurements import Slice
from session_notes_tools.bench.targets import Target

CONNECTIONS = 4
"""The calls in flight are divided among this many connections."""


def find_h2load() -> str | None:
    """Return the path of h2load, or None if it is not on PATH."""
    return shutil.which("h2load")


def require_h2load() -> str:
    """Return the path of h2load.

    Raises:
        BenchError: If it is not on PATH.
    """
    if program := find_h2load():
        return program
    raise BenchError("this measurement needs h2load on PATH (Debian package nghttp2-client)")


async def call_with_h2load(
    program: str, target: Target, in_flight: int, calls: int, *, connections: int = CONNECTIONS
) -> Slice:
    """Make a number of calls with the target's first body, as fast as the server responds.

    h2load ignores the gRPC status, so the call must be known to succeed.

    Raises:
        BenchError: If a call gets no HTTP response, or a status other than 200.
    """
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        if target.protocol == "grpc":
            body.write_bytes(b"\0" + struct.pack(">I", len(target.bodies[0])) + target.bodies[0])
            request = _grpc_request(target, body)
        else:
            # An HTTP/1.1 connection carries one call at a time.
            connections = in_flight
            body.write_bytes(target.bodies[0])
            request = _http_request(target, body)
        connections = min(in_flight, connections)
        with CPUTime(target.servers) as server, CPUTime([target.store] if target.store else []) as store:
            process = await asyncio.create_subprocess_exec(
                *(program, "-t", "1", "-c", str(connections), "-m", str(in_flight // connections), "-n", str(calls)),
                *(f"--log-file={log}", *request),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            await process.wait()
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    if len(rows) != calls or any(status != "200" for _, status, _ in rows):
        raise BenchError(f"h2load got {len(rows)} responses to {calls} calls of {target.name} at {target.place}")
    began = min(int(start) for start, _, _ in rows)
    ended = max(int(start) + int(latency) for start, _, latency in rows)
    latencies_us = [float(latency) for _, _, latency in rows]
    return Slice(latencies_us, (ended - began) / 1e6, server.us_per_call(calls), store.us_per_call(calls), None)


def _grpc_request(target: Target, body: Path) -> list[str]:
    """Return h2load's arguments for a gRPC call."""
    headers = ["-d", str(body), "-H", "content-type: application/grpc", "-H", "te: trailers"]
    if target.transport == "unix":
        base = f"--base-uri=unix:{target.address.removeprefix('unix:')}"
        return [*headers, base, f"http://localhost{target.method}"]
    return [*headers, f"http://{target.address}{target.method}"]


def _http_request(target: Target, body: Path) -> list[str]:
    """Return h2load's arguments for an HTTP/1.1 request."""
    verb, path = target.method.split()
    content = [] if verb == "GET" else ["-d", str(body), "-H", "content-type: application/json"]
    return ["--h1", *content, f"http://{target.address}{path}"]
