"""Fills the tables of docs/performance.md from the JSON in benchmarks/results.

`make bench` runs it after a measurement, and it prints the goals. Each table is enclosed in `<!-- bench: NAME -->` and
`<!-- end -->`. A test checks that the page matches the JSON.
"""

import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from session_notes_tools.bench.goals import is_met
from session_notes_tools.bench.machine import machine_text
from session_notes_tools.bench.report import TextTable, clients_table, number, rendered, section_table, servers_table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "performance.md",)
RESULTS = ROOT / "benchmarks" / "results"
MARKS = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Runs = Sequence[Any]
"""The documents of all runs, oldest first."""


def machine(runs: Runs) -> str:
    """Return the machine and the package versions of the last run."""
    return machine_text(runs[-1]["machine"]) + "\n"


def servers(runs: Runs) -> str:
    """Return a row per call and server."""
    return markdown(servers_table(runs[-1]["calls"]))


def clients(runs: Runs) -> str:
    """Return a row per call of a client library."""
    return markdown(clients_table(runs[-1]["calls"]))


def growth(runs: Runs) -> str:
    """Return a row per dimension, with the medians of each call by size."""
    medians = {(row["of"], row["size"], row["call"]): row["median_us"] for row in runs[-1]["growth"]}
    calls = tuple(dict.fromkeys(call for _, _, call in medians))
    rows = []
    for dimension in sorted({dimension for dimension, _, _ in medians}):
        sizes = sorted({size for of, size, _ in medians if of == dimension})
        by_call = [[number(medians.get((dimension, size, call))) for size in sizes] for call in calls]
        rows.append((dimension, _series(f"{size:,}" for size in sizes), *map(_series, by_call)))
    return markdown(TextTable(("dimension", "sizes", *(f"{call}, µs" for call in calls)), rows))


def section(name: str) -> Callable[[Runs], str]:
    """Return a function that returns the table of a section of the last run."""
    return lambda runs: markdown(section_table(runs[-1][name]))


def goals_table(runs: Runs) -> TextTable:
    """Return the goals, the figures of each run, and whether the median of the runs meets the goal."""
    rows = []
    for goal, *others in zip(*(run["goals"] for run in runs), strict=True):
        figures = [row["measured"] for row in (goal, *others)]
        median = None if None in figures else statistics.median(figures)
        met = is_met(goal["bar"], median) or "-"
        rows.append((goal["goal"], goal["bar"], *("-" if value is None else f"{value:.3g}" for value in figures), met))
    return TextTable(("goal", "bar", *(f"run {index}" for index, _ in enumerate(runs, 1)), "met"), rows)


def parts(_: Runs) -> str:
    """Return a row per call with the figures measured by `parts.py`."""
    parts_of = defaultdict(list)
    for row in json.loads((RESULTS / "parts.json").read_text())["parts"]:
        parts_of[row["call"]].append(f"{row['part']} {number(row['us'])}")
    rows = [(call, ", ".join(figures)) for call, figures in parts_of.items()]
    return markdown(TextTable(("call", "parts, each alone in a loop, µs"), rows))


def _series(figures: Iterable[str]) -> str:
    """Return figures by size as the text of a cell. Figures that were not measured become one dash."""
    return " · ".join(figures).replace("- · ", "")


TABLES: dict[str, Callable[[Runs], str]] = {
    "machine": machine,
    "servers": servers,
    "clients": clients,
    "goals": lambda runs: markdown(goals_table(runs)),
    "parts": parts,
    "growth": growth,
    **{name: section(name) for name in ("engines", "memory", "footprint", "workers", "cluster")},
}


def markdown(table: TextTable) -> str:
    """Return a table in Markdown."""
    lines = (table.headings, ["---"] * len(table.headings), *table.rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def fill_tables(page: str, runs: Runs) -> str:
    """Return a page with its tables regenerated."""
    return MARKS.sub(lambda match: f"{match[1]}{TABLES[match[2]](runs)}{match[3]}", page)


def load_runs() -> list[Any]:
    """Return the documents of all runs, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/bench.json"))]


def main() -> int:
    """Fill the pages, or with `--check` only report whether they match the results."""
    runs, outdated = load_runs(), []
    if not runs:
        print("benchmarks/results contains no runs; run make bench first")
        return 1
    for path in PAGES:
        text = path.read_text()
        if (updated := fill_tables(text, runs)) != text:
            outdated.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(updated)
    if outdated and "--check" in sys.argv:
        print(f"tables that differ from benchmarks/results: {', '.join(outdated)}; run python benchmarks/tables.py")
        return 1
    Console().print(rendered(goals_table(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
