"""`session-notes replay`."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

# Nothing of the command line or of the clients here: the two programs of a replay pass through this file, too.
if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from session_notes_server.replay.play import Settings
    from session_notes_server.replay.transcripts import Dialogue


def _span(text: str | timedelta) -> timedelta:
    from session_notes_server.cli.options import span_or_zero

    return span_or_zero(text)


def replay(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help='The transcripts, a JSON object a line: {"dialogue_id", "turns": [{"speaker", "text", "slots"}]}.',
            show_default=False,
        ),
    ],
    sessions: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="How many sessions to play. More than the file has: its dialogues again, under other ids.",
            show_default="as many as the file has",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The sidecar to use: host:port or unix:/path. Sessions of others on it are left alone.",
            show_default="a throwaway one, over an embedded store",
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="How many sessions at a time.")] = 100,
    observers: Annotated[int, typer.Option(min=1, max=256, metavar="N", help="How many threads observe.")] = 16,
    turn_interval: Annotated[
        timedelta,
        typer.Option(parser=_span, metavar="SPAN", help="How far apart the turns of a session are, on average."),
    ] = "300ms",  # type: ignore[assignment]
    seed: Annotated[
        int, typer.Option(metavar="N", help="Seed of the simulated delays and failures; timing still differs.")
    ] = 1,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the sessions on the sidecar named by --target.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document, for scripts.")] = False,
) -> None:
    """Play transcripts through real primary and observer processes, and check every promise.

    The two processes share nothing but the sidecar. A table at the end says what was read, how old it was, how long
    calls took, and what became of every promise: nothing lost, nothing foreign, ages never negative, numbers growing.
    The exit code is 1 if one was broken.
    """
    from session_notes_server.cli import documents, show
    from session_notes_server.cli.exits import ExitCode, Failure
    from session_notes_server.cli.options import wrong
    from session_notes_server.replay.play import Settings
    from session_notes_server.replay.report import tables
    from session_notes_server.replay.transcripts import BadTranscripts, read_dialogues

    if keep and target is None:
        raise wrong("--keep", "needs --target: a throwaway sidecar keeps nothing")
    try:
        dialogues = read_dialogues(file)
    except BadTranscripts as error:
        raise Failure(str(error), ExitCode.USAGE) from None
    settings = Settings(target or None, concurrency, observers, turn_interval.total_seconds(), seed, keep)
    told = _replayed(dialogues, sessions or len(dialogues), settings)
    if as_json:
        documents.write(told)
    else:
        show.out(*tables(told))
    if not told["ok"]:
        raise typer.Exit(ExitCode.UNEXPECTED)


def _replayed(dialogues: list[Dialogue], sessions: int, settings: Settings) -> dict[str, Any]:
    """The summary of a replay; its errors end the command as they should."""
    import asyncio

    from session_notes import SessionNotesError

    from session_notes_server.cli.exits import ExitCode, Failure, failure_of
    from session_notes_server.programs import ProgramError
    from session_notes_server.replay.plan import planned
    from session_notes_server.replay.play import play
    from session_notes_server.replay.report import summary
    from session_notes_server.replay.verdicts import judge

    if settings.target is None:
        # Credentials in the environment are for another sidecar; ours asks for none, and has no TLS.
        for name in [name for name in os.environ if name.startswith(("SESSION_NOTES_TOKEN", "SESSION_NOTES_TLS"))]:
            del os.environ[name]
    plans = planned(dialogues, sessions, secrets.token_hex(4))
    try:
        with _spectator() as spectator:
            history, elapsed_seconds = asyncio.run(play(plans, settings, spectator))
    except SessionNotesError as error:
        raise failure_of(error, settings.target or "the throwaway sidecar's address") from error
    except ProgramError as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Failure("stopped before the end", ExitCode.UNEXPECTED) from None
    return summary(history, judge(history), elapsed_seconds, settings.target)


class _Spectator:
    """A progress bar on stderr, where that is a terminal, and lines in any case."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._task: TaskID | None = None

    def begin(self, what: str, total: int) -> None:
        self._task = self._progress.add_task(what, total=total)

    def beat(self) -> None:
        if self._task is not None:
            self._progress.advance(self._task)

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _spectator() -> Iterator[_Spectator]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Spectator(console, progress)
