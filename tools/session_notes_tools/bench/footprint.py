"""The `footprint` section: the time to start the sidecar, and to import the client."""

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

from session_notes_tools.bench.errors import BenchError
from session_notes_tools.bench.processes import free_ports
from session_notes_tools.bench.rounds import Progress

REPEATS = 7
START_SECONDS = 30.0

_IMPORT = """
import time
{before}
began = time.perf_counter()
import session_notes
print(time.perf_counter() - began)
"""
_DEPENDENCIES = """
import grpc, grpc.aio
from google.protobuf import descriptor_pool, json_format, message_factory, runtime_version, symbol_database
from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2, any_pb2
"""


async def measure_footprint(progress: Progress) -> list[dict[str, Any]]:
    """Return the rows of the section: start, import, and import without the client's dependencies.

    Raises:
        BenchError: If the sidecar does not start.
    """
    rows = []
    with tempfile.TemporaryDirectory(prefix="session-notes-bench-") as bytecode:
        for name, measure_seconds in (
            ("start of the sidecar to its first response, embedded store included", _start_seconds),
            ("import of session_notes", lambda: _import_seconds("", bytecode)),
            (
                "import of session_notes, with gRPC and protobuf imported already",
                lambda: _import_seconds(_DEPENDENCIES, bytecode),
            ),
        ):
            progress(name)
            await measure_seconds()  # Warm-up: fills caches, including that of byte code.
            times = [await measure_seconds() for _ in range(REPEATS)]
            rows.append(
                {
                    "what": name,
                    "median_seconds": round(statistics.median(times), 4),
                    "worst_seconds": round(max(times), 4),
                }
            )
    return rows


async def _start_seconds() -> float:
    """Return the seconds from the start of a sidecar to its first response."""
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
            async with asyncio.timeout(START_SECONDS):
                while process.returncode is None:
                    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                        with contextlib.suppress(grpc.aio.AioRpcError):
                            await SessionNotesStub(channel).GetNotes(GetNotesRequest(session_id="bench"), timeout=1)
                            return time.perf_counter() - began
                    await asyncio.sleep(0.005)
            raise BenchError("the sidecar did not start; run `session-notes serve` to see why")
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _import_seconds(before: str, bytecode: str) -> float:
    """Return the seconds to import the client from cached byte code, which pip creates on installation."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _IMPORT.format(before=before)),
        stdout=asyncio.subprocess.PIPE,
        env=environment | {"PYTHONPYCACHEPREFIX": bytecode},
    )
    output, _ = await process.communicate()
    return float(output)
