"""`session-notes top`."""

import os
import sys
from datetime import timedelta

import click

from session_notes_tools.cli.credentials import tls, token
from session_notes_tools.cli.exits import ExitCode, Failure, failure_of
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import common_options, usage_error
from session_notes_tools.cli.parameters import option, span_option, span_or_zero

_SHORTEST_INTERVAL = timedelta(milliseconds=100)


@click.command(cls=Command, epilog="Examples:\n  session-notes top\n  session-notes top --once | grep failed")
@span_option("--interval", help="How long to wait before asking again: 500ms, 1s, 1m.", default="1s")
@option("--once", is_flag=True, help="Print the table as plain text and exit; also where there is no terminal.")
@span_option("--max-age", type=span_or_zero, help="The oldest notes that count as fresh: 30s, 5m. Adds FRESH.")
@option(
    "--max-turns-behind",
    type=int,
    metavar="N",
    help="How many turns notes may be behind and count as fresh. Adds FRESH.",
)
@common_options
def top(
    interval: timedelta,
    once: bool,
    max_age: timedelta | None,
    max_turns_behind: int | None,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Watch all sessions: readiness, age and drift of their notes, runs at work.

    A row for each session and observer. Enter shows a session's notes and runs, / filters, ? tells all keys. Where
    the sidecar asks for tokens, it takes an admin's. Needs the extra: pip install '.[top]' in its checkout; --once and
    --json do not.
    """
    from importlib.util import find_spec

    from session_notes import PermissionDenied, SessionNotesError, Unauthenticated

    from session_notes_tools.top.columns import COLUMNS, FRESH
    from session_notes_tools.top.reads import Reads
    from session_notes_tools.top.watch import Watch

    if interval < _SHORTEST_INTERVAL:
        raise usage_error("--interval", "must be at least 100ms")
    live = not once and not as_json and _is_terminal()
    if live and not find_spec("textual"):
        raise Failure(
            "the live table needs textual: pip install '.[top]' in its checkout; or use --once", ExitCode.UNEXPECTED
        )
    bounded = max_age is not None or max_turns_behind is not None
    columns = [column for column in COLUMNS if column is not FRESH or bounded]
    try:
        reads = Reads(target, token(), tls(target), timeout)
        watch = Watch(reads, max_age, max_turns_behind)
        if live:
            from session_notes_tools.top.app import Top

            app = Top(reads, watch, columns, interval)
            app.run()
            if app.failure is not None:
                raise app.failure
            return
        import asyncio

        from session_notes_tools.top.once import read_once, show_once

        asyncio.run(read_once(reads, watch))
        show_once(watch, columns, as_json=as_json)
    except (PermissionDenied, Unauthenticated) as error:
        told = failure_of(error, target)
        raise Failure(f"{told}; listing all sessions takes an admin's --token-file or --tls-cert", told.code) from error
    except SessionNotesError as error:
        raise failure_of(error, target) from error


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
