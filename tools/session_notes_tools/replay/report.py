"""The table at the end: what happened, in numbers, and what became of every promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from session_notes_tools.cli import show
from session_notes_tools.replay.history import History
from session_notes_tools.replay.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 100
_READINESS = ("never_run", "running", "ready", "failed", "expired", "unavailable")


def summary(
    history: History, verdicts: Sequence[Verdict], elapsed_seconds: float, target: str | None
) -> dict[str, Any]:
    """The whole replay as one JSON document; `target`: None where the sidecar was a temporary one."""
    sessions = history.sessions.values()
    reads = [read for session in sessions for read in session.reads]
    outcomes = Counter(write.outcome for session in sessions for write in session.written)
    silent = Counter(run.failed for session in sessions for run in session.unwritten)
    readiness = Counter(read.readiness for read in reads)
    return {
        "ok": not any(verdict.broken for verdict in verdicts),
        "target": target,
        "elapsed_seconds": round(elapsed_seconds, 2),
        "sessions": len(sessions),
        "turns": len(reads),
        "calls": history.calls,
        "reads": {name: readiness[name] for name in _READINESS} | {"fresh": sum(read.fresh for read in reads)},
        "age_ms": _spread(read.age_us / 1000 for read in reads if read.age_us is not None),
        "snapshot_age_ms": _spread(read.snapshot_age_us / 1000 for read in reads if read.snapshot_age_us is not None),
        "turns_behind": _spread(read.turns_behind for read in reads if read.turns_behind is not None),
        "runs": {
            "begun": sum(len(session.begun) for session in sessions),
            "accepted": outcomes["accepted"],
            "superseded": outcomes["superseded"],
            "failed": silent[True],
            "abandoned": silent[False],
            "duplicate": outcomes["duplicate"],
        },
        "latency_ms": {
            rpc: {"calls": len(taken), "p50": percentile(taken, 50), "p99": percentile(taken, 99)}
            for rpc, taken in sorted(history.latencies.items())
        },
        "promises": [
            {
                "promise": verdict.promise,
                "checks": verdict.checks,
                "broken": verdict.broken,
                "examples": [{"session_id": session_id, "what": what} for session_id, what in verdict.examples],
            }
            for verdict in verdicts
        ],
    }


def percentile(numbers: Iterable[float], percent: int) -> float | None:
    """The smallest number that so many percent are not above; None of nothing."""
    ordered = sorted(numbers)
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3) if ordered else None


def tables(told: Mapping[str, Any]) -> list[RenderableType]:
    """A summary for people, at most `WIDTH` columns wide."""
    from rich.table import Table
    from rich.text import Text

    where = told["target"] or "a temporary sidecar"
    amounts = f"{show.count(told['sessions'], 'session')}, {show.count(told['turns'], 'turn')}"
    head = f"{amounts}, {told['elapsed_seconds']} s on {where}"
    numbers = Table.grid(padding=(0, 6))
    numbers.add_row(_facts(told), _latencies(told["latency_ms"]))
    note = "Latencies are the busy clients': their own time and their wait for a CPU are in them."
    return [
        Text(head, style="bold"),
        Text(),
        numbers,
        Text(note, style="dim"),
        Text(),
        _promises(told["promises"]),
        *(show.line((f"  {line}", "red")) for line in _examples(told["promises"])),
        _verdict(told["promises"]),
    ]


def _facts(told: Mapping[str, Any]) -> Table:
    table = _table("", "count", "share")
    for name in _READINESS:
        if count := told["reads"][name]:
            table.add_row(f"reads: {name}", str(count), _share(count, told["turns"]))
    table.add_row("reads: fresh", str(told["reads"]["fresh"]), _share(told["reads"]["fresh"], told["turns"]))
    table.add_row("", "p50", "max", style="bold")
    for name, unit in (("age", "_ms"), ("snapshot_age", "_ms"), ("turns_behind", "")):
        spread = told[name + unit]
        table.add_row(name.replace("_", " ") + (", ms" if unit else ""), _number(spread["p50"]), _number(spread["max"]))
    table.add_row("", "", "")
    for name, count in told["runs"].items():
        table.add_row(f"{'writes' if name == 'duplicate' else 'runs'}: {name}", str(count), "")
    return table


def _latencies(latencies: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("latency, ms", "calls", "p50", "p99")
    for rpc, latency in latencies.items():
        table.add_row(rpc, str(latency["calls"]), f"{latency['p50']:.1f}", f"{latency['p99']:.1f}")
    return table


def _promises(promises: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("promise", "checks", "broken", "")
    for one in promises:
        if one["broken"]:
            word, style = "BROKEN", "bold red"
        elif one["checks"]:
            word, style = "kept", "green"
        else:
            # Nothing that would have put it to the test came up: that is not the same as kept.
            word, style = "not tested", "yellow"
        table.add_row(one["promise"], str(one["checks"]), str(one["broken"]), word, style=style)
    return table


def _verdict(promises: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich.text import Text

    if broken := [one["promise"] for one in promises if one["broken"]]:
        all_of_them = show.count(len(promises), "promise")
        return Text(f"{len(broken)} of {all_of_them} broken: {'; '.join(broken)}", style="bold red")
    tested = sum(bool(one["checks"]) for one in promises)
    checks = sum(one["checks"] for one in promises)
    untested = f", {len(promises) - tested} not tested" if tested < len(promises) else ""
    return Text(f"{show.count(tested, 'promise')} kept in {show.count(checks, 'check')}{untested}", style="bold green")


def _examples(promises: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"{one['promise']}: {example['session_id']}: {example['what']}"
        for one in promises
        for example in one["examples"]
    ]


def _table(first: str, *others: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(first)
    for header in others:
        table.add_column(header, justify="right")
    return table


def _spread(numbers: Iterable[float]) -> dict[str, float | None]:
    listed = list(numbers)
    return {"p50": percentile(listed, 50), "max": percentile(listed, 100)}


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"
