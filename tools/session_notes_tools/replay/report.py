"""The report of a replay: statistics of its reads, runs and calls, and the verdict on every promise."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from session_notes_tools.cli import output, phrases
from session_notes_tools.replay.history import History, SessionHistory
from session_notes_tools.replay.records import NotesRead, NotesWrite, RunWithoutNotes, Submit, Window
from session_notes_tools.replay.verdicts import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

WIDTH = 100
_QUARTERS = 4
"""The number of parts of a conversation for which turns per run are reported."""

_READINESS = ("never_run", "running", "ready", "failed", "expired", "unavailable")


def summary(
    history: History, verdicts: Sequence[Verdict], elapsed_seconds: float, target: str | None, *, brakes: bool
) -> dict[str, Any]:
    """Return the report as one JSON document; `target` is None for a temporary sidecar."""
    sessions = history.sessions.values()
    reads = [read for session in sessions for read in session.of(NotesRead)]
    readiness = Counter(read.readiness for read in reads)
    return {
        "ok": not any(verdict.broken for verdict in verdicts),
        "target": target,
        "brakes": brakes,
        "elapsed_seconds": round(elapsed_seconds, 2),
        "sessions": len(sessions),
        "turns": len(reads),
        "calls": history.calls,
        "reads": {name: readiness[name] for name in _READINESS} | {"fresh": sum(read.fresh for read in reads)},
        "age_ms": _spread(read.age_us / 1000 for read in reads if read.age_us is not None),
        "snapshot_age_ms": _spread(read.snapshot_age_us / 1000 for read in reads if read.snapshot_age_us is not None),
        "turns_behind": _spread(read.turns_behind for read in reads if read.turns_behind is not None),
        "runs": _run_counts(sessions),
        "submissions": _submissions(sessions),
        "turns_read": _turns_read(sessions),
        "latency_ms": {
            rpc: {"calls": len(durations), "p50": percentile(durations, 50), "p99": percentile(durations, 99)}
            for rpc, durations in sorted(history.latencies.items())
        },
        "promises": [
            {
                "promise": verdict.promise,
                "checks": verdict.checks,
                "broken": verdict.broken,
                "examples": [{"session_id": session_id, "what": problem} for session_id, problem in verdict.examples],
            }
            for verdict in verdicts
        ],
    }


def _run_counts(sessions: Collection[SessionHistory]) -> dict[str, int]:
    outcomes = Counter(write.outcome for session in sessions for write in session.of(NotesWrite))
    failed = Counter(run.failed for session in sessions for run in session.of(RunWithoutNotes))
    return {
        "begun": sum(len(session.runs()) for session in sessions),
        "accepted": outcomes["accepted"],
        "superseded": outcomes["superseded"],
        "failed": failed[True],
        "abandoned": failed[False],
        "duplicate": outcomes["duplicate"],
    }


def _submissions(sessions: Collection[SessionHistory]) -> dict[str, Any]:
    """Return how many runs the submissions led to, and how long they waited for the brakes and for a free thread."""
    submits, held_back, runs, waits = 0, 0, 0, []
    for session in sessions:
        times = [submit.sent for submit in session.of(Submit)]
        submits += len(times)
        first, interval_ends = 0, 0.0
        for run in sorted((run for run in session.of(Window) if run.submitted), key=lambda run: run.number):
            runs += 1
            for sent in times[first : bisect_right(times, run.received)]:
                first += 1
                held_back += sent < interval_ends
                waits.append((run.received - sent) * 1000)
            interval_ends = run.received + (run.min_interval_us or 0) / 1e6
    return {
        "submitted": submits,
        "runs": runs,
        "coalesced": submits - runs,
        "held_back": held_back,
        "wait_ms": _spread(waits),
    }


def _turns_read(sessions: Collection[SessionHistory]) -> dict[str, Any]:
    """Return how many turns the runs read, and how many whole transcripts would have had: in all, and per run."""
    quarters: list[list[Window]] = [[] for _ in range(_QUARTERS)]
    for session in sessions:
        length = session.plan.turn_count if session.plan else 0
        for run in session.of(Window):
            if run.observed_turn:
                quarters[min((run.observed_turn - 1) * _QUARTERS // max(1, length), _QUARTERS - 1)].append(run)
    runs = [run for quarter in quarters for run in quarter]
    return {
        "read": sum(len(run.names) for run in runs),
        "whole": sum(run.observed_turn or 0 for run in runs),
        "per_run": [
            {
                "read": _spread(len(run.names) for run in quarter),
                "whole": _spread(run.observed_turn or 0 for run in quarter),
            }
            for quarter in quarters
        ],
    }


def percentile(numbers: Iterable[float], percent: int) -> float | None:
    """Return the nearest-rank percentile; None if there are no numbers."""
    ordered = sorted(numbers)
    return round(ordered[max(0, -(-len(ordered) * percent // 100) - 1)], 3) if ordered else None


def tables(report: Mapping[str, Any]) -> list[RenderableType]:
    """Return the report as tables, at most `WIDTH` columns wide."""
    from rich.table import Table
    from rich.text import Text

    sidecar = report["target"] or "a temporary sidecar"
    counts = f"{phrases.count(report['sessions'], 'session')}, {phrases.count(report['turns'], 'turn')}"
    title = f"{counts}, {report['elapsed_seconds']} s on {sidecar}, {'with' if report['brakes'] else 'without'} brakes"
    statistics = Table.grid(padding=(0, 6))
    statistics.add_row(_statistics(report), _latencies(report["latency_ms"]))
    work = Table.grid(padding=(0, 6))
    work.add_row(_work(report["submissions"]), _reading(report["turns_read"]))
    note = "Latencies are measured at busy clients. They include client time and waits for a CPU."
    return [
        Text(title, style="bold"),
        Text(),
        statistics,
        work,
        Text(note, style="dim"),
        Text(),
        _promises(report["promises"]),
        *(output.line((f"  {line}", "red")) for line in _examples(report["promises"])),
        _verdict(report["promises"]),
    ]


def _statistics(report: Mapping[str, Any]) -> Table:
    table = _table("", "count", "share")
    for name in _READINESS:
        if count := report["reads"][name]:
            table.add_row(f"reads: {name}", str(count), _share(count, report["turns"]))
    table.add_row("reads: fresh", str(report["reads"]["fresh"]), _share(report["reads"]["fresh"], report["turns"]))
    table.add_row("", "p50", "max", style="bold")
    for name, unit in (("age", "_ms"), ("snapshot_age", "_ms"), ("turns_behind", "")):
        spread = report[name + unit]
        table.add_row(name.replace("_", " ") + (", ms" if unit else ""), _number(spread["p50"]), _number(spread["max"]))
    table.add_row("", "", "")
    for name, count in report["runs"].items():
        table.add_row(f"{'writes' if name == 'duplicate' else 'runs'}: {name}", str(count), "")
    return table


def _work(submissions: Mapping[str, Any]) -> Table:
    table = _table("submissions", "count", "share")
    for name in ("submitted", "runs", "coalesced", "held_back"):
        count = submissions[name]
        label = "led to runs" if name == "runs" else name.replace("_", " ")
        table.add_row(label, str(count), _share(count, max(1, submissions["submitted"])))
    table.add_row("", "p50", "max", style="bold")
    table.add_row("wait, ms", _number(submissions["wait_ms"]["p50"]), _number(submissions["wait_ms"]["max"]))
    return table


def _reading(turns: Mapping[str, Any]) -> Table:
    table = _table("turns per run (p50 / max)", "read", "whole transcript")
    for number, quarter in enumerate(turns["per_run"], start=1):
        read, whole = (
            f"{_number(part['p50'])} / {_number(part['max'])}" for part in (quarter["read"], quarter["whole"])
        )
        table.add_row(f"quarter {number} of the conversation", read, whole)
    table.add_row("turns in all", str(turns["read"]), str(turns["whole"]), style="bold")
    return table


def _latencies(latencies: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("latency, ms", "calls", "p50", "p99")
    for rpc, latency in latencies.items():
        table.add_row(rpc, str(latency["calls"]), f"{latency['p50']:.1f}", f"{latency['p99']:.1f}")
    return table


def _promises(promises: Iterable[Mapping[str, Any]]) -> Table:
    table = _table("promise", "checks", "broken", "")
    for promise in promises:
        if promise["broken"]:
            word, style = "BROKEN", "bold red"
        elif promise["checks"]:
            word, style = "kept", "green"
        else:
            # A promise without checks does not count as kept.
            word, style = "not tested", "yellow"
        table.add_row(promise["promise"], str(promise["checks"]), str(promise["broken"]), word, style=style)
    return table


def _verdict(promises: Sequence[Mapping[str, Any]]) -> RenderableType:
    from rich.text import Text

    if broken := [promise["promise"] for promise in promises if promise["broken"]]:
        total = phrases.count(len(promises), "promise")
        return Text(f"{len(broken)} of {total} broken: {'; '.join(broken)}", style="bold red")
    tested = sum(bool(promise["checks"]) for promise in promises)
    checks = sum(promise["checks"] for promise in promises)
    untested = f", {len(promises) - tested} not tested" if tested < len(promises) else ""
    summary_text = f"{phrases.count(tested, 'promise')} kept in {phrases.count(checks, 'check')}"
    return Text(f"{summary_text}{untested}", style="bold green")


def _examples(promises: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        f"{promise['promise']}: {example['session_id']}: {example['what']}"
        for promise in promises
        for example in promise["examples"]
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
    values = list(numbers)
    return {"p50": percentile(values, 50), "max": percentile(values, 100)}


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}"


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"
