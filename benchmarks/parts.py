"""Measures each part of a call alone in a loop. `python benchmarks/parts.py` writes results/parts.json.

The figures show where time is spent, and the most that a change to one part can gain. In a sidecar under load, the same
parts take about twice as long, because four processes share two cores and their caches.
"""

import asyncio
import hashlib
import json
import re
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hiredis
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, WriteNotesRequest
from session_notes_server.rpc import conversion
from session_notes_server.rpc.raw_messages import GetNotesResponse
from session_notes_server.rpc.validation import Check
from session_notes_server.store import ObserverRecord
from session_notes_server.store.keys import Keys
from session_notes_server.store.scripts import SCRIPTS, Arguments, GetNotes, WriteNotes
from session_notes_tools.bench.sessions import BATCH_SIZE, Sessions, make_notes
from session_notes_tools.bench.stores import Store, run_store, sidecar_on

RESULT = Path(__file__).parent / "results" / "parts.json"
REPEATS, LOOPS = 15, 30
OBSERVER = "default"
KEYS = Keys("session-notes")

Rows = list[dict[str, Any]]


async def measure() -> Rows:
    """Return a row for each part, measured on the replies of a real store."""
    async with run_store() as store:
        async with sidecar_on(store.url) as sidecar:
            sessions = Sessions(sidecar.target, BATCH_SIZE, make_notes())
            await sessions.fill()
        first = sessions.ids[0]
        command = SCRIPTS[GetNotes].eval(KEYS.of(first), 0, GetNotes(OBSERVER))
        replies = await raw_reply(store, command) * BATCH_SIZE
        return [
            *get_notes_parts(sessions.ids, replies),
            {
                "call": "GetNotes",
                "part": "run the script, in the store",
                "us": await us_in_store(store, first, GetNotes(OBSERVER)),
            },
            *write_notes_parts(first),
        ]


def get_notes_parts(session_ids: list[str], replies: bytes) -> Rows:
    """Measure the parts of GetNotes in batches, so that the cost of the loops is negligible.

    Args:
        session_ids: The sessions of the batch.
        replies: The store's reply for one session, repeated for the batch.
    """
    entries = [GetNotesRequest(session_id=session_id) for session_id in session_ids]
    request = BatchGetNotesRequest(requests=entries).SerializeToString()

    def validate() -> None:
        for entry in entries:
            check = Check()
            check.session_id(entry.session_id)
            check.observer(entry.observer)
            check.bound("max_age", entry)
            check.bound("max_snapshot_age", entry)
            check.count("current_turn", entry)
            check.count("max_turns_behind", entry)

    def pack() -> list[bytes]:
        return [
            SCRIPTS[GetNotes].evalsha(KEYS.of(session_id), tag, GetNotes(OBSERVER))
            for tag, session_id in enumerate(session_ids)
        ]

    def parse() -> list[Any]:
        parser = hiredis.Reader()
        parser.feed(replies)
        return [parser.gets() for _ in session_ids]

    parsed = parse()

    def build_records() -> list[ObserverRecord]:
        return [
            ObserverRecord.of(observer, now_us=now_us, turn_count=turn_count, expires_ms=expires_ms)
            for _, now_us, turn_count, expires_ms, observer in parsed
        ]

    records = build_records()

    def fill() -> list[GetNotesResponse]:
        responses = [GetNotesResponse() for _ in records]
        for response, record in zip(responses, records, strict=True):
            conversion.fill_reading(response, OBSERVER, record)
        return responses

    responses = fill()
    parts: dict[str, Callable[[], object]] = {
        "parse the request": lambda: BatchGetNotesRequest.FromString(request),
        "validate the request": validate,
        "pack the command": pack,
        "parse the reply": parse,
        "build records": build_records,
        "fill the response": fill,
        "serialize the response": lambda: [response.SerializeToString() for response in responses],
    }
    return rows("GetNotes", parts, divisor=len(session_ids))


def write_notes_parts(session_id: str) -> Rows:
    """Measure the parts of WriteNotes up to the store."""
    notes = make_notes()
    message = WriteNotesRequest(session_id=session_id, notes=notes).SerializeToString()
    stored = notes.SerializeToString(deterministic=True)
    digest = hashlib.sha256(stored).digest()
    arguments = WriteNotes(session_id, 3_600_000, OBSERVER, "run", 3, stored, digest, ttl_us=None, former_ttl_ms=None)
    return rows(
        "WriteNotes",
        {
            "parse the request": lambda: WriteNotesRequest.FromString(message),
            "validate the notes": lambda: run_without_waiting(Check().notes(notes)),
            "serialize and hash the notes": lambda: hashlib.sha256(
                notes.SerializeToString(deterministic=True)
            ).digest(),
            "pack the command": lambda: SCRIPTS[WriteNotes].evalsha(KEYS.of(session_id), 0, arguments),
        },
    )


def rows(call: str, parts: dict[str, Callable[[], object]], *, divisor: int = 1) -> Rows:
    """Measure parts of a call.

    Args:
        call: The call.
        parts: The parts by name.
        divisor: The number of repetitions within each part.
    """
    return [{"call": call, "part": name, "us": us(part, divisor)} for name, part in parts.items()]


def us(part: Callable[[], object], divisor: int) -> float:
    """Return the median time of a part in µs, divided by its number of repetitions."""
    part()
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(LOOPS):
            part()
        times.append((time.perf_counter() - began) / LOOPS / divisor)
    return round(statistics.median(times) * 1e6, 2)


async def us_in_store(store: Store, session_id: str, arguments: Arguments) -> float:
    """Return the time in µs that the store reports for a script, run many times in sequence."""
    keys, script = KEYS.of(session_id), SCRIPTS[type(arguments)]
    await raw_reply(store, script.eval(keys, 0, arguments))
    await store.command("CONFIG RESETSTAT")
    for _ in range(REPEATS * LOOPS):
        await raw_reply(store, script.evalsha(keys, 0, arguments))
    statistics_text = await store.command("INFO commandstats")
    match = re.search(r"cmdstat_evalsha:.*usec_per_call=([\d.]+)", statistics_text)
    return float(match[1]) if match else 0.0


async def raw_reply(store: Store, command: bytes) -> bytes:
    """Return the reply to a command as it arrives on the wire."""
    reader, writer = await asyncio.open_unix_connection(urlsplit(store.url).path)
    writer.write(command)
    reply, parser = b"", hiredis.Reader(notEnoughData=None)
    while parser.gets() is None:
        chunk = await reader.read(65536)
        reply += chunk
        parser.feed(chunk)
    writer.close()
    return reply


def run_without_waiting(coroutine: Coroutine[None, None, None]) -> None:
    """Run a coroutine that never suspends, without the cost of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the coroutine suspended")


def main() -> int:
    """Measure, write the results and print them."""
    measured = asyncio.run(measure())
    RESULT.write_text(json.dumps({"parts": measured}, indent=1) + "\n")
    for row in measured:
        print(f"{row['call']:12s}{row['part']:32s}{row['us']:8.2f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
