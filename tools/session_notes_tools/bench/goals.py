"""The performance goals of the sidecar, and their comparison with the figures of a full bench."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from session_notes_tools.bench.measurements import H2LOAD
from session_notes_tools.bench.rounds import MANY_IN_FLIGHT
from session_notes_tools.bench.sessions import BATCH_SIZE

ENGINE = "native"
"""The engine that the goals are about."""

PLACE = f"session-notes, {ENGINE} (tcp)"


def compare_with_goals(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each goal. A figure is None if the contender it needs was left out.

    Args:
        document: The document of a full bench.
    """
    rows: list[dict[str, Any]] = []
    many = f"{MANY_IN_FLIGHT} in flight"

    def add(goal: str, bar: str, measured: float | None) -> None:
        rows.append({"goal": goal, "bar": bar, "measured": measured, "met": is_met(bar, measured)})

    def call(name: str, figure: str, in_flight: int = MANY_IN_FLIGHT) -> float | None:
        key = (name, PLACE, H2LOAD, in_flight)
        rows = document["calls"]
        return _figure((r for r in rows if (r["call"], r["place"], r["caller"], r["in_flight"]) == key), figure)

    def memory(figure: str) -> float | None:
        return _figure((row for row in document["engines"] if row["engine"] == ENGINE), figure)

    add(f"server CPU of GetNotes ÷ bare grpc.aio echo, {many}", "≤ 0.35", call("GetNotes", "server_cpu_us_to_echo"))
    add(f"server CPU of GetNotes ÷ daprd's GetState, {many}", "≤ 0.75", call("GetNotes", "server_cpu_us_to_daprd"))
    add(f"calls/s of GetNotes ÷ daprd's GetState, {many}", "≥ 1.1", call("GetNotes", "calls_per_second_to_daprd"))
    add("median of GetNotes ÷ daprd's GetState, 1 in flight", "≤ 1.1", call("GetNotes", "median_us_to_daprd", 1))
    add("p99 of GetNotes ÷ daprd's GetState, 1 in flight", "≤ 1.0", call("GetNotes", "p99_us_to_daprd", 1))
    add(f"p99 of GetNotes ÷ daprd's GetState, {many}", "≤ 1.0", call("GetNotes", "p99_us_to_daprd"))
    add(f"server CPU of WriteNotes ÷ daprd's SaveState, {many}", "≤ 1.2", call("WriteNotes", "server_cpu_us_to_daprd"))
    batch = call("BatchGetNotes", "server_cpu_us_to_get_notes")
    per_session = None if batch is None else round(batch / BATCH_SIZE, 3)
    add(f"server CPU per session of BatchGetNotes of {BATCH_SIZE} ÷ GetNotes, {many}", "≤ 0.25", per_session)
    add("server CPU of GetNotes, 2 workers ÷ 1 worker", "≤ 1.10", document["workers"][1]["cpu_to_one_worker"])
    add("memory of the sidecar, idle, MB", "≤ 55", memory("idle_mb"))
    add("memory of the sidecar under load, MB", "≤ 85", memory("under_load_mb"))
    start = document["footprint"][0]["median_seconds"]
    add("start of the sidecar to its first response, embedded store included, s", "≤ 0.6", start)
    return rows


def is_met(bar: str, measured: float | None) -> str | None:
    """Return whether a figure meets a bar, as `yes` or `no`; None if it was not measured."""
    if measured is None:
        return None
    sign, limit = bar.split()
    return "yes" if (measured <= float(limit) if sign == "≤" else measured >= float(limit)) else "no"


def _figure(rows: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """Return a figure of the first row, or None without one."""
    return next((row.get(name) for row in rows), None)
