"""The command `session-notes replay`."""

from __future__ import annotations

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

    from session_notes_tools.replay.playback import Settings
    from session_notes_tools.replay.transcripts import Dialogue


@click.command(cls=Command, epilog="Example: session-notes replay examples/transcripts.jsonl --sessions 100")
@argument(
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='Transcripts, one JSON object per line: {"dialogue_id", "turns": [{"speaker", "text", "slots"}]}.',
)
@option(
    "--sessions",
    type=click.IntRange(min=1),
    metavar="N",
    help="The number of sessions to play. If the file has fewer, its dialogues repeat under new ids.",
    show_default="as many as the file has",
)
@option(
    "--target",
    metavar="ADDRESS",
    help="The sidecar to use: host:port or unix:/path. Its other sessions are not touched.",
    show_default="a temporary one with an embedded store",
)
@option(
    "--concurrency",
    type=click.IntRange(min=1),
    metavar="N",
    help="The number of sessions to play at a time.",
    default=100,
)
@option(
    "--observers", type=click.IntRange(min=1, max=256), metavar="N", help="The number of observer threads.", default=64
)
@span_option(
    "--turn-interval", type=span_or_zero, help="The average time between the turns of a session.", default="300ms"
)
@option(
    "--seed",
    type=int,
    metavar="N",
    help="The seed of the simulated delays and failures. Timing still varies.",
    default=1,
)
@option(
    "--no-brakes",
    is_flag=True,
    help="Let every turn be a reason for a run. Otherwise, the default brakes apply, in proportion to the speed.",
)
@option("--keep", is_flag=True, help="Do not delete the sessions at the end. Requires --target.")
@option("--json", "as_json", is_flag=True, help="Print one JSON document, for scripts.")
def replay(
    file: Path,
    sessions: int | None,
    target: str | None,
    concurrency: int,
    observers: int,
    turn_interval: timedelta,
    seed: int,
    no_brakes: bool,
    keep: bool,
    as_json: bool,
) -> None:
    """Play transcripts through real primary and observer processes, and check every promise.

    The two processes share nothing but the sidecar: at each turn, the observer is told only the session's id. The
    report has reads, runs, ages and latencies, the runs that the brakes saved, and the turns that runs did not have to
    read again. It gives a verdict on every promise: nothing lost, nothing foreign, ages never negative, numbers
    growing. The exit code is 1 if a promise was broken.
    """
    from session_notes_tools.cli import documents, output
    from session_notes_tools.cli.exits import ExitCode, Failure
    from session_notes_tools.cli.options import usage_error
    from session_notes_tools.replay.playback import Settings
    from session_notes_tools.replay.report import tables
    from session_notes_tools.replay.transcripts import BadTranscripts, read_dialogues

    if keep and target is None:
        raise usage_error("--keep", "requires --target; a temporary sidecar is deleted with its sessions")
    try:
        dialogues = read_dialogues(file)
    except BadTranscripts as error:
        raise Failure(str(error), ExitCode.USAGE) from None
    settings = Settings(
        target or None, concurrency, observers, turn_interval.total_seconds(), seed, not no_brakes, keep
    )
    report = _run(dialogues, sessions or len(dialogues), settings)
    if as_json:
        documents.write(report)
    else:
        output.echo(*tables(report))
    if not report["ok"]:
        raise Exit(ExitCode.UNEXPECTED)


def _run(dialogues: list[Dialogue], sessions: int, settings: Settings) -> dict[str, Any]:
    """Run a replay and return its report. An error ends the command with the matching exit code."""
    import asyncio
    import secrets

    from session_notes import SessionNotesError

    from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
    from session_notes_tools.python_process import ProcessFailed
    from session_notes_tools.replay.plan import plan_sessions
    from session_notes_tools.replay.playback import play
    from session_notes_tools.replay.report import summary
    from session_notes_tools.replay.verdicts import judge
    from session_notes_tools.temporary_sidecar import drop_credentials

    if settings.target is None:
        drop_credentials()
    plans = plan_sessions(dialogues, sessions, secrets.token_hex(4))
    try:
        with _progress() as progress:
            history, elapsed_seconds = asyncio.run(play(plans, settings, progress))
    except SessionNotesError as error:
        raise failure_of(error, settings.target or "the temporary sidecar's address") from error
    except ProcessFailed as error:
        raise Failure(str(error), ExitCode.UNEXPECTED) from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise Failure("interrupted before the end", ExitCode.UNEXPECTED) from None
    return summary(history, judge(history), elapsed_seconds, settings.target, brakes=settings.brakes)


class _Progress:
    """Messages on stderr, and a progress bar if stderr is a terminal."""

    def __init__(self, console: Console, bar: Progress) -> None:
        self._console = console
        self._bar = bar
        self._task: TaskID | None = None

    def begin(self, phase: str, total: int) -> None:
        self._task = self._bar.add_task(phase, total=total)

    def advance(self) -> None:
        if self._task is not None:
            self._bar.advance(self._task)

    def message(self, text: str) -> None:
        self._console.print(visible(text, keep="\n"), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress() -> Iterator[_Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:>12}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield _Progress(console, bar)
