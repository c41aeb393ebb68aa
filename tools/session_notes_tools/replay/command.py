"""`session-notes replay`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from session_notes_tools.cli.help import Command
from session_notes_tools.cli.parameters import argument, option, span_option, span_or_zero
from session_notes_tools.terminal_text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from session_notes_tools.replay.play import Settings
    from session_notes_tools.replay.transcripts import Dialogue


@click.command(cls=Command, epilog="Example: session-notes replay examples/transcripts.jsonl --sessions 100")
@argument(
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='The transcripts, a JSON object a line: {"dialogue_id", "turns": [{"speaker", "text", "slots"}]}.',
)
@option(
    "--sessions",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many sessions to play. More than the file has: its dialogues again, under other ids.",
    show_default="as many as the file has",
)
@option(
    "--target",
    metavar="ADDRESS",
    help="The sidecar to use: host:port or unix:/path. Sessions of others on it are left alone.",
    show_default="a temporary one, over an embedded store",
)
@option("--concurrency", type=click.IntRange(min=1), metavar="N", help="How many sessions at a time.", default=100)
@option("--observers", type=click.IntRange(min=1, max=256), metavar="N", help="How many threads observe.", default=16)
@span_option(
    "--turn-interval", type=span_or_zero, help="How far apart the turns of a session are, on average.", default="300ms"
)
@option(
    "--seed", type=int, metavar="N", help="Seed of the simulated delays and failures; timing still differs.", default=1
)
@option("--keep", is_flag=True, help="Leave the sessions on the sidecar named by --target.")
@option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")
def replay(
    file: Path,
    sessions: int | None,
    target: str | None,
    concurrency: int,
    observers: int,
    turn_interval: timedelta,
    seed: int,
    keep: bool,
    as_json: bool,
) -> None:
    """Play transcripts through real primary and observer processes, and check every promise.

    The two processes share nothing but the sidecar. A table at the end says what was read, how old it was, how long
    calls took, and what became of every promise: nothing lost, nothing foreign, ages never negative, numbers growing.
    The exit code is 1 if one was broken.
    """
    from session_notes_tools.cli import documents, show
    from session_notes_tools.cli.exits import ExitCode, Failure
    from session_notes_tools.cli.options import wrong
    from session_notes_tools.replay.play import Settings
    from session_notes_tools.replay.report import tables
    from session_notes_tools.replay.transcripts import BadTranscripts, read_dialogues

    if keep and target is None:
        raise wrong("--keep", "needs --target: a temporary sidecar keeps nothing")
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
        raise Exit(ExitCode.UNEXPECTED)


def _replayed(dialogues: list[Dialogue], sessions: int, settings: Settings) -> dict[str, Any]:
    """The summary of a replay; its errors end the command as they should."""
    import asyncio
    import secrets

    from session_notes import SessionNotesError
    from session_notes_server.child_process import ProgramError

    from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
    from session_notes_tools.replay.plan import planned
    from session_notes_tools.replay.play import play
    from session_notes_tools.replay.report import summary
    from session_notes_tools.replay.verdicts import judge

    if settings.target is None:
        # Credentials in the environment are for another sidecar; ours asks for none, and has no TLS.
        for name in [name for name in os.environ if name.startswith(("SESSION_NOTES_TOKEN", "SESSION_NOTES_TLS"))]:
            del os.environ[name]
    plans = planned(dialogues, sessions, secrets.token_hex(4))
    try:
        with _spectator() as spectator:
            history, elapsed_seconds = asyncio.run(play(plans, settings, spectator))
    except SessionNotesError as error:
        raise failure_of(error, settings.target or "the temporary sidecar's address") from error
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
        self._console.print(visible(text, keep="\n"), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _spectator() -> Iterator[_Spectator]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield _Spectator(console, progress)
