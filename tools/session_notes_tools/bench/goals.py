"""The performance goals of the sidecar, and their comparison with the figures of a full bench."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from session_notes_tools.bench.growth import SESSIONS
from session_notes_tools.bench.measurements import H2LOAD, PYTHON
from session_notes_tools.bench.rounds import MANY_IN_FLIGHT
from session_notes_tools.bench.sessions import BATCH_SIZE


def compare_with_goals(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each goal.

    Args:
        document: The document of a full bench.
    """
    rows: list[dict[str, Any]] = []

    def add(goal: str, at_most: float, measured: float | None) -> None:
        met = None if measured is None else "yes" if measured <= at_most else "no"
        rows.append({"bar": goal, "at_most": at_most, "measured": measured, "met": met})

    def call(name: str, caller: str, in_flight: int) -> Mapping[str, Any]:
        key = (name, "session-notes (tcp)", caller, in_flight)
        for row in document["calls"]:
            if (row["call"], row["place"], row["caller"], row["in_flight"]) == key:
                return row  # type: ignore[no-any-return]
        return {}

    caller = H2LOAD if call("GetNotes", H2LOAD, MANY_IN_FLIGHT) else PYTHON
    get, write, batch = (call(name, caller, MANY_IN_FLIGHT) for name in ("GetNotes", "WriteNotes", "BatchGetNotes"))
    add(f"server CPU of GetNotes ÷ floor, {MANY_IN_FLIGHT} in flight", 1.25, get.get("server_cpu_us_to_floor"))
    add("median of GetNotes ÷ floor, 1 in flight", 1.30, call("GetNotes", PYTHON, 1).get("median_us_to_floor"))
    add(f"server CPU of WriteNotes ÷ floor, {MANY_IN_FLIGHT} in flight", 1.6, write.get("server_cpu_us_to_floor"))
    per_session = batch["server_cpu_us"] / BATCH_SIZE / get["server_cpu_us"]
    add("server CPU per session of BatchGetNotes ÷ GetNotes", 0.10, round(per_session, 3))
    largest = ("sessions", SESSIONS[-1], "GetNotes")
    growth = [
        row["median_to_smallest"] for row in document["growth"] if (row["of"], row["size"], row["call"]) == largest
    ]
    add(f"median of GetNotes, {SESSIONS[-1]:,} sessions ÷ {SESSIONS[0]} sessions", 1.10, growth[0])
    add("memory of the sidecar under load, MiB", 80 * 1e6 / 1024 / 1024, document["memory_under_load_mib"])
    start, whole_import, own_import = (row["median_seconds"] for row in document["footprint"])
    add("start of the sidecar to its first response, s", 0.8, start)
    add("import of session_notes, s", 0.25, whole_import)
    add("import of session_notes without gRPC and protobuf, s", 0.010, own_import)
    add("server CPU of GetNotes, 2 workers ÷ 1 worker", 1.10, document["workers"][1]["cpu_to_one_worker"])
    return rows
