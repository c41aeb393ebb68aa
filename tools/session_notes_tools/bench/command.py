"""`session-notes bench`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from session_notes_tools.cli.help import Command
from session_notes_tools.cli.parameters import option, path_option, span_option

ENOUGH = timedelta(seconds=1)
"""How long each has to be called, all rounds together, for its figures to mean something."""


@click.command(cls=Command, epilog="Example: session-notes bench --target 127.0.0.1:50051")
@option(
    "--target",
    metavar="ADDRESS",
    help="Measure this sidecar: host:port or unix:/path. A token and certificates are taken from the "
    "environment: the token has to be an admin's. Its sessions are left alone; those made for this are deleted "
    "in the end.",
    show_default="a temporary one",
)
@option(
    "--pid",
    multiple=True,
    type=int,
    metavar="N",
    help="A process of the sidecar at --target, to count its CPU. Repeatable.",
)
@option("--full", is_flag=True, help="Also how cost grows, starts, workers and a cluster: some minutes more.")
@option(
    "--rounds", type=click.IntRange(min=1), metavar="N", help="How many rounds count; medians are over them.", default=5
)
@span_option("--slice", "slice_", help="How long each is called in a round.", default="500ms")
@option("--seed", type=int, metavar="N", help="Seed of the order within the rounds.", default=1)
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
    """Measure what a call costs: here, beside a bare gRPC server, and beside Redis without a sidecar.

    Everything is called in turn, round by round, so that a noisy machine hits all alike. The ratios to the floor (a
    bare grpc.aio server that answers with as many bytes) are the figures to trust. `python` calls as an application
    does; `h2load`, if it is on PATH, calls as fast as the server answers.
    """
    from session_notes_tools.cli import documents, show
    from session_notes_tools.cli.options import wrong

    if pid and target is None:
        raise wrong("--pid", "needs --target")
    if full and target is not None:
        raise wrong("--full", "needs sidecars of its own: leave --target out")
    told = _measured(target, pid, full=full, rounds=rounds, seconds=slice_.total_seconds(), seed=seed)
    if rounds * slice_ < ENOUGH:
        click.echo(
            f"warning: each was called for {rounds * slice_.total_seconds():.3g} s in all, which is little: "
            "the figures are no more than a sign of life. Leave --rounds and --slice as they are for more.",
            err=True,
        )
    if results is not None:
        from session_notes_tools.bench.report import plot

        results.mkdir(parents=True, exist_ok=True)
        (results / "bench.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        plot(told["calls"], results / "bench.svg")
    if as_json:
        documents.write(told)
    else:
        from session_notes_tools.bench.report import tables

        show.out(*tables(told))


def _measured(target: str | None, pids: Sequence[int], *, full: bool, **how: Any) -> dict[str, Any]:
    """All figures as one document; its errors end the command as they should."""
    from importlib.util import find_spec

    from session_notes_tools.cli.exits import ExitCode, Failure
    from session_notes_tools.cli.options import wrong

    if not (find_spec("matplotlib") and find_spec("psutil")):
        raise Failure("this needs matplotlib and psutil: from a checkout, pip install '.[bench]'", ExitCode.UNEXPECTED)

    import asyncio

    import grpc
    import psutil
    from session_notes import SessionNotesError
    from session_notes_server.child_process import ProgramError
    from session_notes_server.embedded.valkey import EmbeddedError

    from session_notes_tools.bench.load import LoadError, h2load
    from session_notes_tools.bench.peers import missing
    from session_notes_tools.bench.report import machine
    from session_notes_tools.bench.table import own_table, table_of
    from session_notes_tools.cli.exits import failure_of

    if gone := [pid for pid in pids if not psutil.pid_exists(pid)]:
        raise wrong("--pid", f"there is no process {gone[0]}")
    if target is None:
        # Credentials in the environment are for another sidecar; ours asks for none, and has no TLS.
        for name in [name for name in os.environ if name.startswith(("SESSION_NOTES_TOKEN", "SESSION_NOTES_TLS"))]:
            del os.environ[name]
    left_out = [*([] if h2load() else ["h2load"]), *(missing() if target is None else [])]
    told: dict[str, Any] = {"machine": machine(), "settings": how, "not_on_path": left_out}
    try:
        with _progress() as step:
            calls = own_table(step=step, **how) if target is None else table_of(target, pids, step=step, **how)
            told |= asyncio.run(_until_told(calls))
            if full:
                from session_notes_tools.bench.full import bars, sections

                told |= asyncio.run(_until_told(sections(step, **how)))
                told["bars"] = bars(told)
    except grpc.RpcError as error:
        raise failure_of(SessionNotesError.from_rpc_error(error), target or "") from None
    except SessionNotesError as error:
        raise failure_of(error, target or "") from None
    except (LoadError, ProgramError, EmbeddedError) as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Failure("stopped before the end", ExitCode.UNEXPECTED) from None
    return told


async def _until_told(measuring: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """Measure until it is done, or until SIGTERM or SIGHUP, which end it as Ctrl-C does: nothing is left behind."""
    import asyncio

    me = asyncio.current_task()
    assert me is not None  # noqa: S101 - for the type checker
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(number, me.cancel)
    return await measuring


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is measured just now, on stderr, where that is a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("starting") as status:
        yield status.update
