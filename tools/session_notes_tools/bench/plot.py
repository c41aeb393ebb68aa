"""The plot of a bench: latency with one call in flight, and server CPU with many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from session_notes_tools.bench.report import server_calls
from session_notes_tools.bench.rounds import MANY_IN_FLIGHT

Calls = Sequence[Mapping[str, Any]]


def draw(calls: Calls, path: Path) -> None:
    """Write an SVG file with the plot."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    panels = (
        ("median latency, ms, 1 call in flight", "median_us", 1000.0, server_calls(calls, 1)),
        ("server CPU per call, µs, 64 calls in flight", "server_cpu_us", 1.0, server_calls(calls, MANY_IN_FLIGHT)),
    )
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axis, (title, key, unit, rows) in zip(axes, panels, strict=True):
        shown = [row for row in rows if row[key] is not None and row["call"] != "BatchGetNotes"]
        names = [f"{row['call']}, {row['place']}" for row in shown]
        bars = axis.barh(names, [row[key] / unit for row in shown], color=[_color(row) for row in shown])
        axis.bar_label(bars, fmt="%.2f" if unit > 1 else "%.0f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _color(row: Mapping[str, Any]) -> str:
    if row["place"].startswith("bare"):
        return "#999999"
    return "#2a7fb8" if row["place"].startswith("session-notes") else "#d98c3f"
