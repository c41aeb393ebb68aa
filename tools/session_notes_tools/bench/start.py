"""What it takes to start the sidecar, and to import the client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from typing import Any

import grpc.aio
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_notes_pb2_grpc import SessionNotesStub

from session_notes_tools.bench.load import LoadError
from session_notes_tools.bench.rounds import Tell
from session_notes_tools.bench.stores import free_ports

STARTS = 7

_IMPORT = """
import time
{before}
began = time.perf_counter()
import session_notes
print(time.perf_counter() - began)
"""
_NOT_OURS = """
import grpc, grpc.aio
from google.protobuf import descriptor_pool, json_format, message_factory, runtime_version, symbol_database
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, any_pb2
"""


async def footprint(step: Tell) -> list[dict[str, Any]]:
    """What it takes to start the sidecar and to import the client."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as compiled:
        for what, once in (
            ("serve to first answer, embedded store included", _start),
            ("import session_notes", lambda: _import("", compiled)),
            ("import session_notes, gRPC and protobuf being there", lambda: _import(_NOT_OURS, compiled)),
        ):
            step(what)
            await once()  # Not counted: it fills caches, that of byte code among them.
            taken = [await once() for _ in range(STARTS)]
            rows.append(
                {
                    "what": what,
                    "median_seconds": round(statistics.median(taken), 4),
                    "worst_seconds": round(max(taken), 4),
                }
            )
    return rows


async def _start() -> float:
    """Seconds from the start of the program to the first answer."""
    port = free_ports(1)[0]
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-", ignore_cleanup_errors=True) as folder:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "session_notes_tools", "serve"),
            *("--listen", f"127.0.0.1:{port}", "--data-dir", folder),
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.min_reconnect_backoff_ms", 100)]
            async with asyncio.timeout(30):
                while process.returncode is None:
                    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            await SessionNotesStub(channel).GetNotes(GetNotesRequest(session_id="bench"), timeout=1)
                            return time.perf_counter() - began
                    await asyncio.sleep(0.005)
            raise LoadError("the sidecar does not start")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _import(before: str, compiled: str) -> float:
    """Seconds to import, with byte code at hand: pip compiles what it installs."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _IMPORT.format(before=before)),
        stdout=asyncio.subprocess.PIPE,
        env=environment | {"PYTHONPYCACHEPREFIX": compiled},
    )
    said, _ = await process.communicate()
    return float(said)
