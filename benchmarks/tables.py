"""Put the figures of benchmarks/results into docs/performance.md, between `<!-- bench: … -->` marks.

`make bench` runs it after a measurement, so that no figure in the docs is from memory; a test checks that they are
those of the JSON.
"""

import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "performance.md",)
RESULTS = ROOT / "benchmarks" / "results"
MARKED = re.compile(r"(<!-- bench: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
AT_A_GLANCE = (
    ("GetNotes", "session-notes (tcp)"),
    ("WriteNotes", "session-notes (tcp)"),
    ("Echo", "floor (tcp)"),
    ("GetState", "daprd (tcp)"),
    ("redis: read", "redis-py, no sidecar"),
)


def machine(runs: Sequence[Any]) -> str:
    """Where it was measured."""
    here = runs[-1]["machine"]
    packages = ", ".join(f"{name} {number}" for name, number in here["packages"].items() if name != "session-notes")
    return f"{here['cores']} cores of {here['cpu']}, {here['system']}, Python {here['python']}, {packages}\n"


def calls(runs: Sequence[Any]) -> str:
    """Every call at every place."""
    rows = sorted(runs[-1]["calls"], key=lambda row: (row["in_flight"], row["caller"]))
    head = ("call", "where", "in flight", "median, ms", "p99, ms", "calls/s", "server CPU, µs", "median ÷ floor")
    return table(
        (*head, "CPU ÷ floor"),
        [
            (
                row["call"],
                row["place"],
                f"{row['in_flight']}{', h2load' if row['caller'] == 'h2load' else ''}",
                ms(row["median_us"]),
                ms(row["p99_us"]),
                number(row["calls_per_second"]),
                number(row["server_cpu_us"]),
                ratio(row["median_us_to_floor"]),
                ratio(row["server_cpu_us_to_floor"]),
            )
            for row in rows
        ],
    )


def at_a_glance(runs: Sequence[Any]) -> str:
    """The few lines that most people want."""
    alone = {(row["call"], row["place"]): row for row in runs[-1]["calls"] if row["in_flight"] == 1}
    many = {(row["call"], row["place"]): row for row in runs[-1]["calls"] if row["caller"] == "h2load"}
    return table(
        ("call", "where", "median, 1 in flight", "p99", "server CPU a call, 64 in flight"),
        [
            (
                *which,
                f"{ms(alone[which]['median_us'])} ms",
                f"{ms(alone[which]['p99_us'])} ms",
                f"{number(many[which]['server_cpu_us'])} µs" if which in many else "-",
            )
            for which in AT_A_GLANCE
            if which in alone
        ],
    )


def rows_of(name: str) -> Callable[[Sequence[Any]], str]:
    """A table with a column for each key of some rows of the last run."""

    def made(runs: Sequence[Any]) -> str:
        rows = runs[-1][name]
        return table(
            [key.replace("_", " ") for key in rows[0]], [[number(cell) for cell in row.values()] for row in rows]
        )

    return made


def bars(runs: Sequence[Any]) -> str:
    """What was to be reached, and what each run came to."""
    head = ("bar", "at most", *(f"run {at + 1}" for at in range(len(runs))))
    return table(
        head,
        [
            (one["bar"], f"{one['at_most']:.3g}", *(f"{run['bars'][at]['measured']:.3g}" for run in runs))
            for at, one in enumerate(runs[-1]["bars"])
        ],
    )


def parts(_: Sequence[Any]) -> str:
    """What `parts.py` measured."""
    rows = json.loads((RESULTS / "parts.json").read_text())["parts"]
    return table(
        ("call", "part, alone in a loop", "µs"), [(row["call"], row["part"], number(row["us"])) for row in rows]
    )


TABLES = {
    "machine": machine,
    "calls": calls,
    "at-a-glance": at_a_glance,
    "bars": bars,
    "parts": parts,
    **{name: rows_of(name) for name in ("growth", "memory", "footprint", "workers", "cluster")},
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown writes one."""
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: Any) -> str:
    """A figure, with as many digits as mean something."""
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.3g}"


def ms(us: float) -> str:
    """Microseconds as milliseconds."""
    return f"{us / 1000:.2f}"


def ratio(value: float | None) -> str:
    """A ratio."""
    return "-" if value is None else f"{value:.2f}"


def filled(page: str, runs: Sequence[Any]) -> str:
    """A page with its tables made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](runs)}{found[3]}", page)


def results() -> list[Any]:
    """The runs there are, oldest first."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*/bench.json"))]


def main() -> int:
    """Fill the pages; with --check only say whether they are."""
    runs, stale = results(), []
    if not runs:
        print("there is nothing in benchmarks/results: run make bench first")
        return 1
    for path in PAGES:
        text = path.read_text()
        if (made := filled(text, runs)) != text:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(made)
    if stale and "--check" in sys.argv:
        print(f"not what benchmarks/results says: {', '.join(stale)}; run python benchmarks/tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
