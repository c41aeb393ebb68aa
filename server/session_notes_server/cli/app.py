"""All commands, put together."""

from __future__ import annotations

import typer

from session_notes_server.cli.serve import serve

app = typer.Typer(
    name="session-notes",
    help="One typed, staleness-aware view of a user session, shared by two AI processes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)


@app.callback()
def _commands() -> None:
    pass
