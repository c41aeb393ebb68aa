"""The report of a bench as tables of text, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from session_notes_tools.bench.machine import machine_text

if TYPE_CHECKING:
    from rich.console import RenderableType

SECTIONS = {
    "growth": "Growth",
    "memory": "Memory",
    "footprint": "Start and import",
    "workers": "Workers",
    "cluster": "Two sidecars on a cluster",
    "bars": "Goals",
}
"""The sections that `--full` adds, by their key in the document, with their titles."""

# Headings by key. The heading of any other key is the key with spaces instead of underscores.
_HEADINGS = {
    "of": "dimension",
    "what": "operation",
    "bar": "goal",
    "median_us": "median, µs",
    "server_cpu_us": "server CPU per call, µs",
    "store_cpu_us": "store CPU per call, µs",
    "median_to_smallest": "median ÷ smallest size",
    "sidecar_mib": "sidecar, MiB",
    "store_mib": "store, MiB",
    "store_bytes_per_session": "store per session, bytes",
    "median_seconds": "median, s",
    "worst_seconds": "slowest, s",
    "calls_per_second": "calls/s",
    "cpu_to_one_worker": "CPU ÷ one worker",
    "answers_that_differ": "different responses",
}


class TextTable(NamedTuple):
    """A table of formatted cells."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def calls_table(calls: Sequence[Mapping[str, Any]]) -> TextTable:
    """Return the table of all calls at all places, ordered by load."""
    headings = ("call", "where", "in flight", "median, ms", "p99, ms", "calls/s", "server CPU, µs")
    return TextTable(
        (*headings, "median ÷ floor", "CPU ÷ floor"),
        [
            (
                row["call"],
                row["place"],
                f"{row['in_flight']}{', h2load' if row['caller'] == 'h2load' else ''}",
                milliseconds(row["median_us"]),
                milliseconds(row["p99_us"]),
                number(row["calls_per_second"]),
                number(row["server_cpu_us"]),
                ratio(row["median_us_to_floor"]),
                ratio(row["server_cpu_us_to_floor"]),
            )
            for row in sorted(calls, key=lambda row: (row["in_flight"], row["caller"]))
        ],
    )


def section_table(rows: Sequence[Mapping[str, Any]]) -> TextTable:
    """Return the table of a section: a column for each key of its rows."""
    headings = [_HEADINGS.get(key, key.replace("_", " ")) for key in rows[0]]
    return TextTable(headings, [[number(value) for value in row.values()] for row in rows])


def render_report(document: Mapping[str, Any]) -> list[RenderableType]:
    """Return the document of a bench as rich renderables."""
    from rich.text import Text

    parts: list[RenderableType] = [
        Text(machine_text(document["machine"]), style="bold"),
        _rendered(calls_table(document["calls"])),
    ]
    for name, title in SECTIONS.items():
        if document.get(name):
            parts += [Text(title, style="bold"), _rendered(section_table(document[name]))]
    if document["not_on_path"]:
        programs = ", ".join(document["not_on_path"])
        parts.append(Text(f"not measured, because not on PATH: {programs}", style="yellow"))
    return parts


def number(value: Any) -> str:
    """Format a figure with its significant digits. Text is unchanged, and None becomes a dash."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3g}"


def milliseconds(us: float) -> str:
    """Format microseconds as milliseconds."""
    return f"{us / 1000:.2f}"


def ratio(value: float | None) -> str:
    """Format a ratio with two decimals. None becomes a dash."""
    return "-" if value is None else f"{value:.2f}"


def _rendered(table: TextTable) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rendered = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading, cells in zip(table.headings, zip(*table.rows, strict=True), strict=True):
        rendered.add_column(heading, justify="left" if any(cell[:1].isalpha() for cell in cells) else "right")
    for row in table.rows:
        rendered.add_row(*row)
    return rendered
