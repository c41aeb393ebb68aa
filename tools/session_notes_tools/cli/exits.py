"""Exit codes and error messages of commands."""

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
    """Exit codes for scripts."""

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
        f"  {ExitCode.OK:d}  success",
        f"  {ExitCode.UNEXPECTED:d}  unexpected error or interrupted; serve: cannot start; doctor: a problem",
        f"  {ExitCode.USAGE:d}  wrong usage, an invalid setting, or a value that the sidecar rejects",
        f"  {ExitCode.NOT_READY:d}  notes get: no notes are ready; with --fresh: no fresh notes",
        f"  {ExitCode.UNAVAILABLE:d}  the sidecar or its store is unavailable, too slow or overloaded",
        f"  {ExitCode.REFUSED:d}  refused: version mismatch, already written or failed, deleted, superseded",
        f"  {ExitCode.NOT_FOUND:d}  no such session, run or service",
        f"  {ExitCode.DENIED:d}  permission denied",
    ]
)


class Failure(Exception):
    """An error that ends a command with a message, possibly of several lines, and an exit code."""

    def __init__(self, message: str, code: ExitCode) -> None:
        super().__init__(message)
        self.code = code


def failure_of(error: Exception, target: str = "") -> Failure:
    """Convert an error to the failure that ends the command.

    Args:
        error: An error of `session_notes`. Any other type is reported as unexpected.
        target: The address that was called, if any.
    """
    import session_notes as client

    from session_notes_tools.cli.phrases import count

    message = one_line(str(error))
    match error:
        case client.InvalidArgument(violations=[_, *_] as violations):
            texts = (f"{_flag_of(v.field) or v.field}: {v.description}" for v in violations)
            return Failure(one_line("; ".join(texts)), ExitCode.USAGE)
        case client.InvalidArgument():
            message, code = _with_flags(message), ExitCode.USAGE
        case client.TooLarge(actual=int(actual)):
            message, code = f"{message}: {actual}", ExitCode.USAGE
        case client.TooLarge():
            code = ExitCode.USAGE
        case client.Unavailable(reason=""):
            return _no_answer(target, message)
        case client.Unavailable():
            code = ExitCode.UNAVAILABLE
        case client.VersionMismatch(actual=int(actual), metadata={"expected": expected}):
            message, code = f"the session is at version {actual}, not {expected}", ExitCode.REFUSED
        case client.TurnCountMismatch(actual=int(actual), metadata={"expected": expected}):
            message, code = f"the transcript has {count(actual, 'turn')}, not {expected}", ExitCode.REFUSED
        case client.Conflict() | client.RunAlreadyWritten() | client.RunAlreadyFailed() | client.SessionDeleted():
            code = ExitCode.REFUSED
        case client.RunInFlight():
            message = f"{message}: {error.run.run_id}"
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


def _flag_of(argument: str) -> str | None:
    """Return the flag or the name in capitals that the running command has for a client's argument, if any."""
    context = click.get_current_context(silent=True)
    for parameter in context.command.params if context else ():
        if parameter.name == argument:
            return parameter.opts[0] if isinstance(parameter, click.Option) else parameter.metavar
    return None


def _with_flags(message: str) -> str:
    """Replace the names of arguments in a client's error by flags."""
    argument, space, problem = message.partition(" ")
    tls_ca = _flag_of("tls_ca")
    alternative = f"give {tls_ca}, or " if tls_ca else ""
    return f"{_flag_of(argument) or argument}{space}{problem}".replace("pass tls, or ", alternative)


def _no_answer(target: str, details: str) -> Failure:
    # gRPC reports each step of an attempt to connect; the last one is the cause. It adds "OK" to a certificate's fault.
    where = f" at {target}" if target else ""
    cause = details.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
    return Failure(f"no sidecar answers{where}: {cause}", ExitCode.UNAVAILABLE)


def one_line(text: str) -> str:
    """Join foreign text into one line, so that it cannot imitate output of this program."""
    return " ".join(text.split())


class Program(Group):
    """The group of all commands, which prints errors on stderr as `error: …` instead of tracebacks.

    To see the traceback of a bug, set SESSION_NOTES_TRACEBACK=1, or run `serve -v`, which logs it.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, and warn about unknown environment variables; `serve` logs these itself."""
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
        """Run a command and, in standalone mode, exit with its code."""
        run = partial(super().main, args, prog_name, complete_var, False, windows_expand_args, **extra)
        return sys.exit(_exit_code(run)) if standalone_mode else run()


def _exit_code(run: Callable[[], Any]) -> int:
    """Run a command, print its error if there is one, and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # Escape characters that the terminal's encoding lacks, instead of failing.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = run()
    except click.Abort:
        return _print_error("aborted", ExitCode.UNEXPECTED)
    except click.UsageError as error:
        return _print_usage_error(error)
    except Exception as error:
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        if isinstance(error, Failure):
            return _print_error(str(error), error.code)
        log.debug("the command failed", exc_info=True)
        failure = failure_of(error)
        return _print_error(str(failure), failure.code)
    return code if isinstance(code, int) else ExitCode.OK


def _print_usage_error(error: click.UsageError) -> int:
    message = error.format_message()
    if isinstance(error, NoArgsIsHelpError):
        click.echo(message, err=True)
        return ExitCode.USAGE
    hint = f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    return _print_error(one_line(message[:1].lower() + message[1:].rstrip(".")) + hint, ExitCode.USAGE)


def _print_error(message: str, code: ExitCode) -> int:
    from session_notes_tools.cli.output import plain

    click.echo(f"error: {plain(message, lines=True)}", err=True)
    return code
