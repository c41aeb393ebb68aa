"""Fills the tables of docs/performance.md from the JSON in benchmarks/results.

`make bench` runs it after a measurement. Each table is enclosed in `<!-- bench: NAME -->` and `<!-- end -->`. A test
checks that the page matches the JSON.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from session_notes_tools.bench.machine import machine_text
from session_notes_tools.bench.report import TextTable, milliseconds, number, ratio, section_table

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "performance.md",)
RESULTS = ROOT / "benchmarks" / "results"
MARKS = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
Runs = Sequence[Any]
"""The documents of all runs, oldest first."""


def machine(runs: Runs) -> str:
    """Return the machine and the package versions of the last run."""
    return machine_text(runs[-1]["machine"]) + "\n"


def calls(runs: Runs) -> str:
    """Return a row per call and place: latency with one call in flight from Python, CPU with many from h2load."""
    rows = runs[-1]["calls"]
    many = {(row["call"], row["place"]): row for row in rows if row["caller"] == "h2load"}
    headings = ("call", "where", "median, ms", "p99, ms", "median ÷ floor", "calls/s", "CPU per call, µs")
    cells = []
    for row in rows:
        if row["in_flight"] == 1:
            loaded = many.get((row["call"], row["place"]), {})
            cells.append(
                (
                    row["call"],
                    row["place"],
                    milliseconds(row["median_us"]),
                    milliseconds(row["p99_us"]),
                    ratio(row["median_us_to_floor"]),
                    number(loaded.get("calls_per_second")),
                    number(loaded.get("server_cpu_us")),
                    ratio(loaded.get("server_cpu_us_to_floor")),
                )
            )
    return markdown(TextTable((*headings, "CPU ÷ floor"), cells))


def growth(runs: Runs) -> str:
    """Return the median of each call by dimension and size."""
    medians = {(row["of"], row["size"], row["call"]): row["median_us"] for row in runs[-1]["growth"]}
    names = tuple(dict.fromkeys(name for _, _, name in medians))
    sizes = sorted({(dimension, size) for dimension, size, _ in medians})
    return markdown(
        TextTable(
            ("dimension", "size", *(f"{name}, µs" for name in names)),
            [(*map(str, size), *(number(medians.get((*size, name))) for name in names)) for size in sizes],
        )
    )


def section(name: str) -> Callable[[Runs], str]:
    """Return a function that returns the table of a section of the last run."""
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
    """Return the figures measured by `parts.py`."""
    rows = json.loads((RESULTS / "parts.json").read_text())["parts"]
    headings = ("call", "part, alone in a loop", "µs")
    return markdown(TextTable(headings, [(row["call"], row["part"], number(row["us"])) for row in rows]))


TABLES: dict[str, Callable[[Runs], str]] = {
    "machine": machine,
    "calls": calls,
    "goals": goals,
    "parts": parts,
    "growth": growth,
    **{name: section(name) for name in ("memory", "footprint", "workers", "cluster")},
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
    return 0


if __name__ == "__main__":
    sys.exit(main())
