"""The command `session-notes top`."""

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
@span_option("--interval", help="The pause between refreshes: 500ms, 1s, 1m.", default="1s")
@option("--once", is_flag=True, help="Print the table once as plain text. The default if stdout is not a terminal.")
@span_option(
    "--max-age", type=span_or_zero, help="The age up to which notes count as fresh: 30s, 5m. Adds the column FRESH."
)
@option(
    "--max-turns-behind",
    type=int,
    metavar="N",
    help="The drift up to which notes count as fresh, in turns. Adds the column FRESH.",
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
    """Watch all sessions: readiness, age and drift of their notes, and runs in flight.

    The table has a row for each session and observer. Enter shows a session's notes and runs, / filters, ? lists all
    keys. A sidecar with tokens requires an admin's token. The live table needs the extra `top`; --once and --json
    do not. In a checkout: pip install '.[server,top]'.
    """
    from importlib.util import find_spec

    from session_notes import PermissionDenied, SessionNotesError, Unauthenticated

    from session_notes_tools.top.cache import SessionCache
    from session_notes_tools.top.client import TopClient
    from session_notes_tools.top.columns import columns_for

    if interval < _SHORTEST_INTERVAL:
        raise usage_error("--interval", "must be at least 100ms")
    live = not once and not as_json and _is_terminal()
    if live and not find_spec("textual"):
        raise Failure(
            "the live table needs textual. In a checkout: pip install '.[server,top]'. Or use --once",
            ExitCode.UNEXPECTED,
        )
    columns = columns_for(bounded=max_age is not None or max_turns_behind is not None)
    try:
        client = TopClient(target, token(), tls(target), timeout)
        cache = SessionCache(client, max_age, max_turns_behind)
        if live:
            from session_notes_tools.top.app import Top

            app = Top(client, cache, columns, interval)
            app.run()
            if app.failure is not None:
                raise app.failure
            return
        import asyncio

        from session_notes_tools.top.printout import print_rows, read_all

        asyncio.run(read_all(client, cache))
        print_rows(cache, columns, as_json=as_json)
    except (PermissionDenied, Unauthenticated) as error:
        failure = failure_of(error, target)
        raise Failure(
            f"{failure}; listing all sessions requires an admin's --token-file or --tls-cert", failure.code
        ) from error
    except SessionNotesError as error:
        raise failure_of(error, target) from error


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
