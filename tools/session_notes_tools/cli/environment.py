"""The environment variables that commands read, and warnings about others that look like them."""

import logging
import os
from collections.abc import Iterator

import click

# No option has these: they belong to the clients, to the command line itself and to the examples.
_WITHOUT_OPTION = {"SESSION_NOTES_TOKEN", "SESSION_NOTES_TRACEBACK", "SESSION_NOTES_MODEL"}


def known_variables(command: click.Command) -> set[str]:
    """Return the variables that a command and its subcommands read, including those that no option has."""
    return _WITHOUT_OPTION | set(_option_variables(command))


def variable_warnings(command: click.Command) -> list[str]:
    """Return a warning for each environment variable that is probably meant for a command and has no effect.

    The clients of this process then leave these variables alone: one warning is enough.
    """
    known = known_variables(command)
    # Importing the clients takes longer than most commands, so it waits for a variable to judge.
    if not any(name.upper().startswith("SESSION") and name not in known for name in os.environ):
        return []
    from session_notes import unknown_variables

    warnings = unknown_variables(known, complete=True)
    texts = [warnings[name] for name in sorted(warnings)]
    if texts:
        logging.getLogger("session_notes").addFilter(lambda record: record.getMessage() not in texts)
    return texts


def _option_variables(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter.envvar, str):
            yield parameter.envvar
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            yield from _option_variables(subcommand)
