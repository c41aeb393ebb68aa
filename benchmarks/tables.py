"""Fills the tables of docs/performance.md from the JSON in benchmarks/results.

`make bench` runs it after a measurement. A table stands between `<!-- bench: NAME -->` and `<!-- end -->`. A test
checks that the page agrees with the JSON.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from session_notes_tools.bench.machine import machine_text
from session_notes_tools.bench.report import TextTable, calls_table, milliseconds, number, section_table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "performance.md",)
RESULTS = ROOT / "benchmarks" / "results"
MARKS = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
AT_A_GLANCE = (
    ("GetNotes", "session-notes (tcp)"),
    ("WriteNotes", "session-notes (tcp)"),
    ("Echo", "floor (tcp)"),
    ("GetState", "daprd (tcp)"),
    ("redis: read", "redis-py, no sidecar"),
)

Runs = Sequence[Any]
"""The documents of all runs, oldest first."""


def machine(runs: Runs) -> str:
    """Return the machine and the package versions of the last run."""
    return machine_text(runs[-1]["machine"]) + "\n"


def calls(runs: Runs) -> str:
    """Return every call at every place."""
    return markdown(calls_table(runs[-1]["calls"]))


def at_a_glance(runs: Runs) -> str:
    """Return the few rows that most readers look for."""
    single = {(row["call"], row["place"]): row for row in runs[-1]["calls"] if row["in_flight"] == 1}
    many = {(row["call"], row["place"]): row for row in runs[-1]["calls"] if row["caller"] == "h2load"}
    headings = ("call", "where", "median, 1 in flight", "p99, 1 in flight", "server CPU per call, 64 in flight")
    return markdown(
        TextTable(
            headings,
            [
                (
                    *key,
                    f"{milliseconds(single[key]['median_us'])} ms",
                    f"{milliseconds(single[key]['p99_us'])} ms",
                    f"{number(many[key]['server_cpu_us'])} µs" if key in many else "-",
                )
                for key in AT_A_GLANCE
                if key in single
            ],
        )
    )


def section(name: str) -> Callable[[Runs], str]:
    """Return the function that makes the table of a section of the last run."""
    return lambda runs: markdown(section_table(runs[-1][name]))


def goals(runs: Runs) -> str:
    """Return the goals and the figures of each run."""
    headings = ("goal", "at most", *(f"run {index}" for index, _ in enumerate(runs, 1)))
    return markdown(
        TextTable(
            headings,
            [
                (row["bar"], f"{row['at_most']:.3g}", *(f"{run['bars'][index]['measured']:.3g}" for run in runs))
                for index, row in enumerate(runs[-1]["bars"])
            ],
        )
    )


def parts(_: Runs) -> str:
    """Return the figures of `parts.py`."""
    rows = json.loads((RESULTS / "parts.json").read_text())["parts"]
    headings = ("call", "part, alone in a loop", "µs")
    return markdown(TextTable(headings, [(row["call"], row["part"], number(row["us"])) for row in rows]))


TABLES: dict[str, Callable[[Runs], str]] = {
    "machine": machine,
    "calls": calls,
    "at-a-glance": at_a_glance,
    "goals": goals,
    "parts": parts,
    **{name: section(name) for name in ("growth", "memory", "footprint", "workers", "cluster")},
}


def markdown(table: TextTable) -> str:
    """Return a table in Markdown."""
    lines = (table.headings, ["---"] * len(table.headings), *table.rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def filled(page: str, runs: Runs) -> str:
    """Return a page with all its tables made again."""
    return MARKS.sub(lambda match: f"{match[1]}{TABLES[match[2]](runs)}{match[3]}", page)


def load_runs() -> list[Any]:
    """Return the documents of all runs, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/bench.json"))]


def main() -> int:
    """Fill the pages, or with `--check` only report whether they agree with the results."""
    runs, outdated = load_runs(), []
    if not runs:
        print("benchmarks/results holds no runs: run make bench first")
        return 1
    for path in PAGES:
        text = path.read_text()
        if (updated := filled(text, runs)) != text:
            outdated.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(updated)
    if outdated and "--check" in sys.argv:
        print(f"not the figures in benchmarks/results: {', '.join(outdated)}; run python benchmarks/tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
