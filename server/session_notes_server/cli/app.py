"""All commands, put together."""

from typing import Annotated

import typer

from session_notes_server.bench.command import bench
from session_notes_server.cli import notes, runs, session
from session_notes_server.cli.exits import EXIT_CODES_HELP, Program
from session_notes_server.cli.health import health
from session_notes_server.cli.help import Command
from session_notes_server.cli.mcp import mcp
from session_notes_server.cli.serve import serve
from session_notes_server.doctor.command import doctor
from session_notes_server.replay import replay
from session_notes_server.top.command import top

app = typer.Typer(
    name="session-notes",
    cls=Program,
    help="One typed, staleness-aware view of a user session, shared by two AI processes.\n\n"
    "Start with: session-notes serve",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    cls=Command,
    epilog="Examples:\n  session-notes serve\n  session-notes serve --redis-url redis://localhost:6379/0",
)(serve)
app.command(cls=Command, epilog="Example: session-notes health --service session_notes.v1.SessionNotes")(health)
app.command(cls=Command, epilog="Examples:\n  session-notes top\n  session-notes top --once | grep failed")(top)
app.command(
    cls=Command,
    epilog="Examples:\n  session-notes doctor\n  session-notes doctor --redis-url redis://localhost:6379/0 --write",
)(doctor)
app.add_typer(notes.app, name="notes")
app.add_typer(runs.app, name="runs")
app.add_typer(session.app, name="session")
app.command(
    cls=Command,
    epilog="Needs the extra mcp: pip install '.[server,mcp]' in its checkout\n\n"
    "Examples:\n  session-notes mcp --session s1\n  session-notes mcp --listen 127.0.0.1:8765",
)(mcp)
app.command(cls=Command, epilog="Example: session-notes replay transcripts.jsonl --sessions 200")(replay)
app.command(cls=Command, epilog="Example: session-notes bench --target 127.0.0.1:50051")(bench)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"session-notes {version('session-notes')}")
        raise typer.Exit


@app.callback()
def _commands(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass
