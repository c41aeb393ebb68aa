"""The command `session-notes bench`."""

from __future__ import annotations

import json
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import click
from session_notes_server.settings import DEFAULT_ADDRESS

from session_notes_tools.cli.help import Command
from session_notes_tools.cli.parameters import option, path_option, span_option

MEANINGFUL_TIME = timedelta(seconds=1)
"""The minimum time per target, over all rounds, for meaningful figures."""


@click.command(cls=Command, epilog=f"Example: session-notes bench --target {DEFAULT_ADDRESS}")
@option(
    "--target",
    metavar="ADDRESS",
    help="Measure this sidecar: host:port or unix:/path. An admin's token and certificates are read from the "
    "environment. The bench creates its own sessions and deletes them at the end.",
    show_default="a temporary sidecar",
)
@option(
    "--pid",
    multiple=True,
    type=int,
    metavar="N",
    help="The id of a process of the sidecar at --target, to measure its CPU time. Repeatable.",
)
@option(
    "--full", is_flag=True, help="Also measure growth, start time, workers and a cluster. Takes several minutes longer."
)
@option("--rounds", type=click.IntRange(min=1), metavar="N", help="The number of rounds.", default=5)
@span_option("--slice", "slice_", help="The time per target and round.", default="500ms")
@option("--seed", type=int, metavar="N", help="The seed of the order within the rounds.", default=1)
@path_option("--results", metavar="DIR", help="Also write bench.json and bench.svg to this directory.")
@option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")
def bench(
    target: str | None,
    pid: tuple[int, ...],
    full: bool,
    rounds: int,
    slice_: timedelta,
    seed: int,
    results: Path | None,
    as_json: bool,
) -> None:
    """Measure the cost of a call on both engines, compared with bare gRPC servers, Dapr, and Redis without a sidecar.

    All targets are called in turn, round by round, so that noise on the machine affects all of them alike. Trust the
    ratios more than the absolute figures: those to the echo, a bare grpc.aio server with responses of the same size,
    and those to daprd. Servers are called by h2load, if it is on PATH. A contender that does not start is left out.
    """
    from session_notes_tools.cli import documents, output
    from session_notes_tools.cli.options import usage_error

    if pid and target is None:
        raise usage_error("--pid", "requires --target")
    if full and target is not None:
        raise usage_error("--full", "measures temporary sidecars only; remove --target")
    document = _measure(target, pid, full=full, rounds=rounds, seconds=slice_.total_seconds(), seed=seed)
    if rounds * slice_ < MEANINGFUL_TIME:
        click.echo(
            f"warning: each target was called for only {rounds * slice_.total_seconds():.3g} s in total, too short for "
            "reliable figures. Use the defaults of --rounds and --slice, or higher values.",
            err=True,
        )
    if results is not None:
        from session_notes_tools.bench import plot

        results.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (results / "bench.json").write_text(text + "\n", encoding="utf-8")
        plot.draw(document["calls"], results / "bench.svg")
    if as_json:
        documents.write(document)
    else:
        from session_notes_tools.bench.report import render_report

        output.echo(*render_report(document))


def _measure(target: str | None, pids: Sequence[int], *, full: bool, **settings: Any) -> dict[str, Any]:
    """Return all figures as one document, and raise every expected error as a failure of the command."""
    from importlib.util import find_spec

    from session_notes_tools.cli.exits import ExitCode, Failure
    from session_notes_tools.cli.options import usage_error

    if not (find_spec("matplotlib") and find_spec("psutil")):
        raise Failure(
            "bench needs matplotlib and psutil. In a checkout: pip install '.[server,bench]'", ExitCode.UNEXPECTED
        )

    import asyncio

    import grpc
    import psutil
    from session_notes import SessionNotesError
    from session_notes_server.settings import StartupError

    from session_notes_tools.bench.calls import measure_sidecar_at, measure_temporary_sidecars
    from session_notes_tools.bench.errors import BenchError
    from session_notes_tools.bench.machine import machine_facts
    from session_notes_tools.cli.exits import failure_of
    from session_notes_tools.python_process import ProcessFailed
    from session_notes_tools.temporary_sidecar import drop_credentials

    if missing := [pid for pid in pids if not psutil.pid_exists(pid)]:
        raise usage_error("--pid", f"no process has the id {missing[0]}")
    if target is None:
        drop_credentials()
    document: dict[str, Any] = {"machine": machine_facts(), "settings": settings}
    try:
        with _progress() as progress:
            calls = (
                measure_temporary_sidecars(progress=progress, **settings)
                if target is None
                else measure_sidecar_at(target, pids, progress=progress, **settings)
            )
            document |= asyncio.run(_until_signalled(calls))
            if full:
                from session_notes_tools.bench.goals import compare_with_goals
                from session_notes_tools.bench.sections import measure_sections

                document |= asyncio.run(_until_signalled(measure_sections(progress, **settings)))
                document["goals"] = compare_with_goals(document)
    except grpc.RpcError as error:
        raise failure_of(SessionNotesError.from_rpc_error(error), target or "") from None
    except SessionNotesError as error:
        raise failure_of(error, target or "") from None
    except (BenchError, ProcessFailed, StartupError) as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Failure("interrupted; no figures were written", ExitCode.UNEXPECTED) from None
    return document


async def _until_signalled(measurement: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Await a measurement. SIGTERM and SIGHUP cancel it as Ctrl-C does, so that it cleans up."""
    import asyncio

    task = cast("asyncio.Task[Any]", asyncio.current_task())
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await measurement


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the current step on stderr if that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield status.update
