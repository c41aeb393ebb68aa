"""The command line: `serve`, and by hand everything a client can do."""

from session_notes_tools.cli.app import app

__all__ = ["app"]
