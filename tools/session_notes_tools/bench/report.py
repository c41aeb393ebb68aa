"""The report of a bench as tables of text, for the terminal and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from session_notes_tools.bench.machine import machine_text
from session_notes_tools.bench.rounds import MANY_IN_FLIGHT

if TYPE_CHECKING:
    from rich.console import RenderableType

SECTIONS = {
    "engines": "Memory of the sidecar",
    "growth": "Growth",
    "memory": "Memory by sessions",
    "footprint": "Start and import",
    "workers": "Workers",
    "cluster": "Two sidecars on a cluster",
    "goals": "Goals",
}
"""The sections after the calls, by their key in the document, with their titles. `--full` adds all but the first."""

# Headings by key. The heading of any other key is the key with spaces instead of underscores.
_HEADINGS = {
    "of": "dimension",
    "what": "operation",
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
    "idle_mb": "idle, MB",
    "under_load_mb": "under load, MB",
    "answers_that_differ": "different responses",
}


Calls = Sequence[Mapping[str, Any]]


class TextTable(NamedTuple):
    """A table of formatted cells."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


def server_calls(calls: Calls, in_flight: int) -> list[Mapping[str, Any]]:
    """Return the calls to servers with a number of calls in flight."""
    return [row for row in calls if row["in_flight"] == in_flight and row["protocol"] in {"grpc", "http"}]


def servers_table(calls: Calls) -> TextTable:
    """Return a row per call and server: latency with one call in flight, throughput and CPU with many."""
    headings = (
        *("call", "where", "median, ms", "p99, ms", "median ÷ daprd"),
        *("calls/s, 64 in flight", "p99, ms", "server CPU, µs", "CPU ÷ echo", "CPU ÷ daprd"),
    )
    loaded = {(row["call"], row["place"]): row for row in server_calls(calls, MANY_IN_FLIGHT)}
    rows = []
    for row in server_calls(calls, 1):
        many = loaded[row["call"], row["place"]]
        rows.append(
            (
                *(row["call"], row["place"], milliseconds(row["median_us"]), milliseconds(row["p99_us"])),
                ratio(row.get("median_us_to_daprd")),
                *(number(many["calls_per_second"]), milliseconds(many["p99_us"]), number(many["server_cpu_us"])),
                *(ratio(many.get("server_cpu_us_to_echo")), ratio(many.get("server_cpu_us_to_daprd"))),
            )
        )
    return TextTable(headings, rows)


def clients_table(calls: Calls) -> TextTable:
    """Return a row per call of a client library or of redis-py, with one call in flight."""
    return TextTable(
        ("call", "where", "median, ms", "p99, ms", "caller CPU, µs"),
        [
            (
                *(row["call"], row["place"], milliseconds(row["median_us"]), milliseconds(row["p99_us"])),
                number(row["caller_cpu_us"]),
            )
            for row in calls
            if row["in_flight"] == 1 and row["protocol"] in {"client", "redis"}
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
        Text("Servers", style="bold"),
        rendered(servers_table(document["calls"])),
    ]
    if (clients := clients_table(document["calls"])).rows:
        parts += [Text("From Python", style="bold"), rendered(clients)]
    for name, title in SECTIONS.items():
        if document.get(name):
            parts += [Text(title, style="bold"), rendered(section_table(document[name]))]
    parts += [Text(f"left out: {line}", style="yellow") for line in document["left_out"]]
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


def rendered(table: TextTable) -> RenderableType:
    """Return a table as a rich renderable."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rendered = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for heading, cells in zip(table.headings, zip(*table.rows, strict=True), strict=True):
        rendered.add_column(heading, justify="left" if any(cell[:1].isalpha() for cell in cells) else "right")
    for row in table.rows:
        rendered.add_row(*row)
    return rendered
