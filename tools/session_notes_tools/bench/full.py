"""`bench --full`: all that is measured beyond the table, and what the sidecar is held to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from session_notes_tools.bench.contenders import BATCH
from session_notes_tools.bench.growth import SESSIONS, growth
from session_notes_tools.bench.rounds import MANY, PYTHON, Tell
from session_notes_tools.bench.scale import two_on_a_cluster, workers
from session_notes_tools.bench.start import footprint


async def sections(step: Tell, *, rounds: int, seconds: float, seed: int) -> dict[str, Any]:
    """All that `--full` adds, but for the bars."""
    grown, memory = await growth(rounds=rounds, seconds=seconds, seed=seed, step=step)
    return {
        "growth": grown,
        "memory": memory,
        "footprint": await footprint(step),
        "workers": await workers(step, rounds=rounds, seconds=seconds),
        "cluster": await two_on_a_cluster(step, rounds=rounds, seconds=seconds),
    }


def bars(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the sidecar is held to, and what it came to."""
    rows: list[dict[str, Any]] = []

    def bar(what: str, at_most: float, figure: float | None) -> None:
        met = None if figure is None else "yes" if figure <= at_most else "no"
        rows.append({"bar": what, "at_most": at_most, "measured": figure, "met": met})

    def call(name: str, caller: str, in_flight: int, place: str = "session-notes (tcp)") -> Mapping[str, Any]:
        found = [
            row
            for row in told["calls"]
            if (row["call"], row["place"], row["caller"], row["in_flight"]) == (name, place, caller, in_flight)
        ]
        return found[0] if found else {}

    busiest = "h2load" if call("GetNotes", "h2load", MANY) else PYTHON
    get, write = call("GetNotes", busiest, MANY), call("WriteNotes", busiest, MANY)
    batch = call("BatchGetNotes", busiest, MANY)
    bar("server CPU of GetNotes ÷ floor, 64 in flight", 1.25, get.get("server_cpu_us_to_floor"))
    bar("median GetNotes ÷ floor, 1 in flight", 1.30, call("GetNotes", PYTHON, 1).get("median_us_to_floor"))
    bar("server CPU of WriteNotes ÷ floor, 64 in flight", 1.6, write.get("server_cpu_us_to_floor"))
    each = batch["server_cpu_us"] / BATCH / get["server_cpu_us"]
    bar("BatchGetNotes of 100, per session ÷ one GetNotes", 0.10, round(each, 3))
    grown = [
        row["median_to_smallest"]
        for row in told["growth"]
        if (row["of"], row["size"], row["call"]) == ("sessions", SESSIONS[-1], "GetNotes")
    ]
    bar("median GetNotes at 100,000 sessions ÷ at 100", 1.10, grown[0])
    bar("sidecar memory under load, MiB", 80 * 1e6 / 1024 / 1024, told["memory_under_load_mib"])
    start, whole, ours = (row["median_seconds"] for row in told["footprint"])
    bar("serve to first answered RPC, s", 0.8, start)
    bar("import of the client package, s", 0.25, whole)
    bar("import of the client package, of which ours, s", 0.010, ours)
    bar("server CPU of GetNotes, 2 workers ÷ 1", 1.10, told["workers"][1]["cpu_to_one_worker"])
    return rows
