"""Environment variables of the commands, and warnings about misspelt ones."""

import logging
import os
from collections.abc import Iterator

import click

# Variables without an option, read by the clients, the command line itself and the examples.
_WITHOUT_OPTION = {"SESSION_NOTES_TOKEN", "SESSION_NOTES_TRACEBACK", "SESSION_NOTES_MODEL"}


def known_variables(command: click.Command) -> set[str]:
    """Return the variables that a command and its subcommands read, including those without an option."""
    return _WITHOUT_OPTION | set(_option_variables(command))


def variable_warnings(command: click.Command) -> list[str]:
    """Return a warning for each environment variable that is probably meant for a command but has no effect.

    Afterwards, the clients in this process no longer log the same warnings.
    """
    variables = known_variables(command)
    # Importing the clients takes longer than most commands, so do it only if there is a variable to judge.
    if not any(name.upper().startswith("SESSION") and name not in variables for name in os.environ):
        return []
    from session_notes import unknown_variables

    warnings = unknown_variables(variables, complete=True)
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
