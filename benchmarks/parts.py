"""What the parts of a call cost, each by itself in a loop: `python benchmarks/parts.py` writes results/parts.json.

In a sidecar under load the same parts cost about twice as much, since four processes share two cores and their caches.
This is for finding out where time goes, and what a change to one part can be worth at most.
"""

import asyncio
import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, WriteNotesRequest
from session_notes_server.rpc.raw_messages import GetNotesResponse
from session_notes_server.rpc.services.notes import _Wanted
from session_notes_server.rpc.validation import Check
from session_notes_server.store import Store, scripts
from session_notes_server.store.keys import Keys
from session_notes_server.store.operations import _observer
from session_notes_server.store.redis.executor import Executor, _own
from session_notes_server.store.redis.target import RedisTarget
from session_notes_server.store.scripts import Script
from session_notes_tools.bench.contenders import BATCH, notes_of
from session_notes_tools.bench.stores import Store as Server
from session_notes_tools.bench.stores import said, store

RESULT = Path(__file__).parent / "results" / "parts.json"
REPEATS, LOOPS = 15, 30
PREFIX = "session-notes"

Rows = list[dict[str, Any]]


def us(part: Callable[[], object], *, times: int = 1) -> float:
    """Microseconds that a part takes, divided by how many times it does its work."""
    part()
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(LOOPS):
            part()
        taken.append((time.perf_counter() - began) / LOOPS / times)
    return round(statistics.median(taken) * 1e6, 2)


def at_once(work: Coroutine[None, None, None]) -> None:
    """Does a work that waits for nobody."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


async def spoken(server: Server, command: bytes) -> bytes:
    """A command's reply as it comes over the wire."""
    reader, writer = await asyncio.open_unix_connection(urlsplit(server.url).path)
    writer.write(command)
    heard, parser = b"", hiredis.Reader(notEnoughData=None)
    while parser.gets() is None:
        more = await reader.read(65536)
        heard += more
        parser.feed(more)
    writer.close()
    return heard


async def in_the_store(server: Server, script: Script, *arguments: Any) -> float:
    """Microseconds a script takes in the store, one right after the other."""
    keys = Keys(PREFIX).of("s0")
    await spoken(server, script.in_full(keys, 0, arguments))
    await said(server, "CONFIG RESETSTAT")
    for _ in range(REPEATS * LOOPS):
        await spoken(server, script.by_digest(keys, 0, arguments))
    told = re.search(r"cmdstat_evalsha:.*usec_per_call=([\d.]+)", await said(server, "INFO commandstats"))
    return float(told[1]) if told else 0.0


async def measured() -> Rows:
    """All parts, over a real store's replies."""
    rows: Rows = []

    def row(call: str, part: str, microseconds: float) -> None:
        rows.append({"call": call, "part": part, "us": microseconds})

    async with store() as server:
        executor = Executor(RedisTarget.parse(server.url), prefix=PREFIX, timeout=timedelta(seconds=5))
        sessions = Store(
            notes=executor, reads=executor, writes=executor, session_ttl=timedelta(hours=1), on_deletion=lambda: None
        )
        notes = notes_of()
        stored = notes.SerializeToString(deterministic=True)
        digest = hashlib.sha256(stored).digest()
        for at in range(BATCH):
            await sessions.write_notes(
                f"s{at}", "default", "run", notes=stored, digest=digest, observed_turn=3, ttl=timedelta(minutes=30)
            )
        keys = Keys(PREFIX)
        command = scripts.GET_NOTES.in_full(keys.of("s0"), 0, ("default",))
        heard = await spoken(server, command) * BATCH

        entries = [GetNotesRequest(session_id=f"s{at}") for at in range(BATCH)]
        raw = BatchGetNotesRequest(requests=entries).SerializeToString()
        wanted = [_Wanted(entry, Check()) for entry in entries]

        def parse() -> list[Any]:
            parser = hiredis.Reader()
            parser.feed(heard)
            return [parser.gets() for _ in range(BATCH)]

        def answer() -> list[GetNotesResponse]:
            responses = [GetNotesResponse() for _ in wanted]
            for one, response, record in zip(wanted, responses, records, strict=True):
                one.answer(response, record)
            return responses

        replies = parse()
        records = [_observer(_own(None, reply, 0)) for reply in replies]  # type: ignore[arg-type]  # The link is for errors.
        responses = answer()
        # In a batch, so that it is the parts that are measured, and not the loop around them.
        each: list[tuple[str, Callable[[], object]]] = [
            ("parse the request", lambda: BatchGetNotesRequest.FromString(raw)),
            ("check it", lambda: [_Wanted(entry, Check()) for entry in entries]),
            (
                "pack the command",
                lambda: [scripts.GET_NOTES.by_digest(keys.of(f"s{at}"), at, ("default",)) for at in range(BATCH)],
            ),
            ("parse the store's reply", parse),
            ("make records", lambda: [_observer(_own(None, reply, 0)) for reply in replies]),  # type: ignore[arg-type]
            ("fill the answer", answer),
            ("serialize it", lambda: [response.SerializeToString() for response in responses]),
        ]
        for part, do in each:
            row("GetNotes", part, us(do, times=BATCH))

        request = WriteNotesRequest(session_id="s0", notes=notes)
        raw_write = request.SerializeToString()
        arguments = ("s0", "3600000", "default", "run", "3", stored, digest, "", "")
        row("WriteNotes", "parse the request", us(lambda: WriteNotesRequest.FromString(raw_write)))
        row("WriteNotes", "check the notes", us(lambda: at_once(Check().notes(request.notes))))
        row(
            "WriteNotes",
            "serialize and hash them",
            us(lambda: hashlib.sha256(request.notes.SerializeToString(deterministic=True)).digest()),
        )
        row("WriteNotes", "pack the command", us(lambda: scripts.WRITE_NOTES.by_digest(keys.of("s0"), 0, arguments)))
        await executor.aclose()
        row("GetNotes", "the script, in the store", await in_the_store(server, scripts.GET_NOTES, "default"))
    return sorted(rows, key=lambda one: str(one["call"]))


def main() -> int:
    """Measure, write, print."""
    rows = asyncio.run(measured())
    RESULT.write_text(json.dumps({"parts": rows}, indent=1) + "\n")
    for row in rows:
        print(f"{row['call']:12s}{row['part']:28s}{row['us']:8.2f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
