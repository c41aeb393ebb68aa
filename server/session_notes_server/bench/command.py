"""`session-notes bench`."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from session_notes_server.cli.options import span

ENOUGH = timedelta(seconds=1)
"""How long each has to be called, all rounds together, for its figures to mean something."""


def bench(
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Measure this sidecar: host:port or unix:/path. A token and certificates are taken from the "
            "environment: the token has to be an admin's. Its sessions are left alone; those made for this are deleted "
            "in the end.",
            show_default="a throwaway one",
        ),
    ] = None,
    pid: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="A process of the sidecar at --target, to count its CPU. Repeatable."),
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Also how cost grows, starts, workers and a cluster: some minutes more."),
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="How many rounds count; medians are over them.")] = 5,
    slice_: Annotated[
        timedelta,
        typer.Option("--slice", parser=span, metavar="SPAN", help="How long each is called in a round."),
    ] = "500ms",  # type: ignore[assignment]
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the order within the rounds.")] = 1,
    results: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also write bench.json and bench.svg to this directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")] = False,
) -> None:
    """Measure what a call costs: here, beside a bare gRPC server, and beside Redis without a sidecar.

    Everything is called in turn, round by round, so that a noisy machine hits all alike. The ratios to the floor (a
    bare grpc.aio server that answers with as many bytes) are the figures to trust. `python` calls as an application
    does; `h2load`, if it is on PATH, calls as fast as the server answers.
    """
    from session_notes_server.cli import documents, show
    from session_notes_server.cli.options import wrong

    if pid and target is None:
        raise wrong("--pid", "needs --target")
    if full and target is not None:
        raise wrong("--full", "needs sidecars of its own: leave --target out")
    told = _measured(target, pid or [], full=full, rounds=rounds, seconds=slice_.total_seconds(), seed=seed)
    if rounds * slice_ < ENOUGH:
        typer.echo(
            f"warning: each was called for {rounds * slice_.total_seconds():.3g} s in all, which is little: "
            "the figures are no more than a sign of life. Leave --rounds and --slice as they are for more.",
            err=True,
        )
    if results is not None:
        from session_notes_server.bench.report import plot

        results.mkdir(parents=True, exist_ok=True)
        (results / "bench.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        plot(told["calls"], results / "bench.svg")
    if as_json:
        documents.write(told)
    else:
        from session_notes_server.bench.report import tables

        show.out(*tables(told))


def _measured(target: str | None, pids: list[int], *, full: bool, **how: Any) -> dict[str, Any]:
    """All figures as one document; its errors end the command as they should."""
    from session_notes_server.cli.exits import ExitCode, Failure
    from session_notes_server.cli.options import wrong

    if not (find_spec("matplotlib") and find_spec("psutil")):
        raise Failure("this needs matplotlib and psutil: from a checkout, pip install '.[bench]'", ExitCode.UNEXPECTED)

    import asyncio

    import grpc
    import psutil
    from session_notes import SessionNotesError
    from session_notes._errors import translate

    from session_notes_server.bench.load import LoadError, h2load
    from session_notes_server.bench.peers import missing
    from session_notes_server.bench.report import machine
    from session_notes_server.bench.table import own_table, table_of
    from session_notes_server.cli.exits import failure_of
    from session_notes_server.embedded import EmbeddedError
    from session_notes_server.programs import ProgramError

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
                from session_notes_server.bench.full import bars, sections

                told |= asyncio.run(_until_told(sections(step, **how)))
                told["bars"] = bars(told)
    except grpc.RpcError as error:
        raise failure_of(translate(error), target or "") from None
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
