"""How a command ends: the exit codes, and the message on stderr that goes with each but 0."""

import logging
import os
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from io import TextIOWrapper
from typing import Any

import click
from click.exceptions import NoArgsIsHelpError

from session_notes_tools.cli.environment import variable_warnings
from session_notes_tools.cli.help import Group

log = logging.getLogger(__name__)

_TRACEBACK_VARIABLE = "SESSION_NOTES_TRACEBACK"


class ExitCode(IntEnum):
    """What a script can branch on."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    NOT_READY = 3
    UNAVAILABLE = 4
    REFUSED = 5
    NOT_FOUND = 6
    DENIED = 7


EXIT_CODES_HELP = "\n".join(
    [
        "Exit codes:",
        f"  {ExitCode.OK:d}  done",
        f"  {ExitCode.UNEXPECTED:d}  unexpected, stopped by you, `serve` cannot start, `doctor` sees a problem",
        f"  {ExitCode.USAGE:d}  wrong usage, a wrong setting, or a value that the sidecar does not take",
        f"  {ExitCode.NOT_READY:d}  no notes are ready, or with --fresh: none that are fresh (notes get)",
        f"  {ExitCode.UNAVAILABLE:d}  the sidecar or its store is not there, too slow or too busy",
        f"  {ExitCode.REFUSED:d}  refused: other version, already written or failed, deleted, superseded",
        f"  {ExitCode.NOT_FOUND:d}  there is no such session, run or service",
        f"  {ExitCode.DENIED:d}  not allowed",
    ]
)


class Failure(Exception):
    """Ends a command with a message to a person, whose line breaks are kept, and a code to a script."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def failure_of(error: Exception, target: str = "") -> Failure:
    """What a client's error comes to on the command line.

    Args:
        error: Any error of `session_notes`; one of somebody else's is unexpected.
        target: The sidecar that was called, where it is known.
    """
    import session_notes as client

    from session_notes_tools.cli.phrases import count

    message = one_line(str(error))
    match error:
        case client.InvalidArgument(violations=[_, *_] as violations):
            return Failure(one_line("; ".join(f"{v.field}: {v.description}" for v in violations)), ExitCode.USAGE)
        case client.InvalidArgument():
            code = ExitCode.USAGE
        case client.TooLarge(actual=int(actual)):
            message, code = f"{message}: {actual}", ExitCode.USAGE
        case client.TooLarge():
            code = ExitCode.USAGE
        case client.Unavailable(reason=""):
            return no_answer(target, message)
        case client.Unavailable():
            code = ExitCode.UNAVAILABLE
        case client.VersionMismatch(actual=int(actual), metadata={"expected": expected}):
            message, code = f"the session is at version {actual}, not {expected}", ExitCode.REFUSED
        case client.TurnCountMismatch(actual=int(actual), metadata={"expected": expected}):
            message, code = f"the transcript has {count(actual, 'turn')}, not {expected}", ExitCode.REFUSED
        case client.Conflict() | client.RunAlreadyWritten() | client.RunAlreadyFailed() | client.SessionDeleted():
            code = ExitCode.REFUSED
        case client.RunInFlight():
            message = f"{message}: {error.run.run_id}" if error.run else message
            code = ExitCode.REFUSED
        case client.RunNotFound():
            code = ExitCode.NOT_FOUND
        case client.Unauthenticated() | client.PermissionDenied():
            code = ExitCode.DENIED
        case client.SessionNotesError():
            code = ExitCode.UNEXPECTED
        case _:
            return Failure(f"unexpected {type(error).__name__}: {message}", ExitCode.UNEXPECTED)
    return Failure(f"{message} ({error.reason})" if error.reason else message, code)


def no_answer(target: str, details: str) -> Failure:
    """The failure to reach a sidecar; `details` are gRPC's."""
    # They tell the whole story of an attempt to connect; its end is what matters.
    where = f" at {target}" if target else ""
    end = one_line(details).rpartition(": ")[2].rstrip("]")
    return Failure(f"no sidecar answers{where}: {end}", ExitCode.UNAVAILABLE)


def one_line(text: str) -> str:
    """A text of somebody else's: it is not to look like lines of ours."""
    return " ".join(text.split())


class Program(Group):
    """The commands, and the promise that no traceback reaches a person.

    Every error is a message on stderr, `error: …`; others' words in it are one line. Whoever looks for a bug sets
    SESSION_NOTES_TRACEBACK=1, or has `serve -v` log it.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and warn about variables that it would not read; `serve` logs that itself."""
        name, command, rest = super().resolve_command(ctx, args)
        if name != "serve" and not ctx.resilient_parsing:
            for warning in variable_warnings(self):
                click.echo(f"warning: {warning}", err=True)
        return name, command, rest

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and, as a program of its own, exit with its code."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        return sys.exit(_ended(run)) if standalone_mode else run()


def _ended(run: Callable[[], Any]) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A letter that the terminal's encoding lacks is no reason to show nothing.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
    except click.Abort:
        return _say("nothing done", ExitCode.UNEXPECTED)
    except click.UsageError as error:
        return _explain(error)
    except Exception as error:
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        if isinstance(error, Failure):
            return _say(str(error), error.code)
        log.debug("ended by", exc_info=True)
        failure = failure_of(error)
        return _say(str(failure), failure.code)
    return code if isinstance(code, int) else ExitCode.OK


def _explain(error: click.UsageError) -> int:
    message = error.format_message()
    if isinstance(error, NoArgsIsHelpError):
        click.echo(message, err=True)
        return ExitCode.USAGE
    help_ = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    return _say(one_line(message[:1].lower() + message[1:].rstrip(".")) + help_, ExitCode.USAGE)


def _say(message: str, code: ExitCode) -> int:
    from session_notes_tools.cli.output import plain

    click.echo(f"error: {plain(message, lines=True)}", err=True)
    return code
