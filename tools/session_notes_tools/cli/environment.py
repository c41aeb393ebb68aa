"""The environment variables that commands read, and warnings about others that look like them."""

import logging
import os
import re
from collections.abc import Iterator
from difflib import get_close_matches

import click

PREFIX = "SESSION_NOTES_"

# No option's: of the clients, of the command line itself, of the examples.
_OTHERS = {f"{PREFIX}TOKEN", f"{PREFIX}TRACEBACK", f"{PREFIX}MODEL"}
# Set by Kubernetes in every container, for a service that is called session-notes.
_OF_KUBERNETES = re.compile(r"SESSION_NOTES_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_\w+)?)")
# Below, a name that does not even begin like ours is likely to be another program's.
_CLOSE, _VERY_CLOSE = 0.75, 0.9


def known_variables(command: click.Command) -> set[str]:
    """Return the variables that a command and those below it read, by their options, and the few that no option has."""
    return _OTHERS | set(_of_options(command))


def unknown_variables(command: click.Command) -> dict[str, str]:
    """Return a warning for each variable of the environment that is meant for us, it seems, and has no effect."""
    known, warnings = known_variables(command), dict[str, str]()
    for name in sorted(os.environ):
        if name in known or not name.isidentifier() or _OF_KUBERNETES.fullmatch(name):
            continue
        ours = name.startswith(PREFIX)
        if not ours and not name.upper().startswith("SESSION"):
            continue
        nearest = get_close_matches(name.upper(), sorted(known), 1, _CLOSE if ours else _VERY_CLOSE)
        if ours or nearest:
            hint = f"; is it {nearest[0]}?" if nearest else ""
            warnings[name] = f"the environment variable {name} is unknown and has no effect{hint}"
    return warnings


def warn_once(warnings: dict[str, str]) -> None:
    """Print the warnings, which the clients of this process then need not log again."""
    for text in warnings.values():
        click.echo(f"warning: {text}", err=True)
    if warnings:
        client = logging.getLogger("session_notes")
        client.addFilter(lambda record: not any(name in record.getMessage() for name in warnings))


def _of_options(command: click.Command) -> Iterator[str]:
    for parameter in command.params:
        if isinstance(parameter.envvar, str):
            yield parameter.envvar
    if isinstance(command, click.Group):
        for below in command.commands.values():
            yield from _of_options(below)
