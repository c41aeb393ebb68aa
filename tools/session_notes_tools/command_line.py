"""The `session-notes` command and all its subcommands."""

import click

from session_notes_tools.bench.command import bench
from session_notes_tools.cli import notes, runs, session
from session_notes_tools.cli.completion import completion
from session_notes_tools.cli.exits import EXIT_CODES_HELP, Program
from session_notes_tools.cli.health import health
from session_notes_tools.cli.mcp import mcp
from session_notes_tools.cli.parameters import Option
from session_notes_tools.cli.serve import serve
from session_notes_tools.doctor.command import doctor
from session_notes_tools.replay.command import replay
from session_notes_tools.top.command import top


@click.group(
    "session-notes", cls=Program, epilog=EXIT_CODES_HELP, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="session-notes", message="session-notes %(version)s", cls=Option)
def app() -> None:
    """One typed, staleness-aware view of a user session, shared by two AI processes.

    Start with: session-notes serve
    """


for command in (serve, health, top, doctor, mcp, replay, bench, notes.app, runs.app, session.app, completion):
    app.add_command(command)
