"""Classes and decorators for options and arguments, and the types of their values."""

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST_SPAN = timedelta(days=36525)


class Option(click.Option):
    """A click option with a section in `--help` and a description of its default.

    Args:
        names: The flags, and the name of the parameter if it differs.
        panel: The section of `--help` that lists it.
        show_default: The description of the default, if the value does not speak for itself.
    """

    def __init__(self, names: Sequence[str], *, panel: str = "Options", **others: Any) -> None:
        super().__init__(names, **others)
        self.panel = panel
        # Not `self.default`, which is a marker object of click's if there is no default.
        self.default_in_words = str(others.get("show_default") or others.get("default", ""))

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Return the name of the option, and its environment variable if the value came from there."""
        hint = super().get_error_hint(ctx)
        from_variable = ctx is not None and ctx.get_parameter_source(self.name) is click.ParameterSource.ENVIRONMENT
        return f"{hint} (env var: '{self.envvar}')" if from_variable else hint


class Argument(click.Argument):
    """A click argument with a description in `--help`."""

    def __init__(self, names: Sequence[str], *, help: str, **others: Any) -> None:
        super().__init__(names, **others)
        self.help = help


def span_or_zero(text: str | timedelta) -> timedelta:
    """Parse a duration such as `90s`, `24h`, `1.5d` or `0s`."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip(), re.ASCII)
    if not match:
        raise click.BadParameter("write a number and a unit: 500ms, 90s, 15m, 24h, 7d")
    try:
        length = timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        length = timedelta.max
    if length > _LONGEST_SPAN:
        raise click.BadParameter("must be at most 100 years")
    return length


def span(text: str | timedelta) -> timedelta:
    """Parse a duration above zero, such as `90s`, `24h` or `1.5d`."""
    length = span_or_zero(text)
    if not length:
        raise click.BadParameter("must be above 0")
    return length


option = partial(click.option, cls=Option)
span_option = partial(option, type=span, metavar="SPAN")
path_option = partial(option, type=click.Path(path_type=Path), metavar="FILE")

argument = partial(click.argument, cls=Argument)
