"""How commands declare what they take: options and arguments that `--help` can tell about, and types of values."""

import re
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import click

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Option(click.Option):
    """An option of click's, with what the help needs to know.

    Args:
        panel: Under which title the help shows it.
        show_default: The default in words, where the value does not say it.
    """

    def __init__(self, names: Sequence[str], *, panel: str = "Options", **others: Any) -> None:
        super().__init__(names, **others)
        self.panel = panel
        # Not `self.default`: where there is none, that is a marker of click's own.
        self.default_in_words = str(others.get("show_default") or others.get("default", ""))

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Which option is at fault, and the variable, if the value came from there."""
        hint = super().get_error_hint(ctx)
        by_variable = ctx is not None and ctx.get_parameter_source(self.name) is click.ParameterSource.ENVIRONMENT
        return f"{hint} (env var: '{self.envvar}')" if by_variable else hint


class Argument(click.Argument):
    """An argument with a text for the help."""

    def __init__(self, names: Sequence[str], *, help: str, **others: Any) -> None:
        super().__init__(names, **others)
        self.help = help


def span_or_zero(text: str | timedelta) -> timedelta:
    """A span of time as people write it: `90s`, `24h`, `1.5d`; `0s` too."""
    if isinstance(text, timedelta):
        return text
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text.strip(), re.ASCII)
    if not found:
        raise click.BadParameter("write a number and a unit: 500ms, 90s, 15m, 24h, 7d")
    try:
        length = timedelta(**{_UNITS[found[2]]: float(found[1])})
    except OverflowError:
        length = timedelta.max
    if length > timedelta(days=36525):
        raise click.BadParameter("must be at most 100 years")
    return length


def span(text: str | timedelta) -> timedelta:
    """A span of time as people write it: `90s`, `24h`, `1.5d`."""
    length = span_or_zero(text)
    if not length:
        raise click.BadParameter("must be above 0")
    return length


option = partial(click.option, cls=Option)
span_option = partial(option, type=span, metavar="SPAN")
path_option = partial(option, type=click.Path(path_type=Path), metavar="FILE")

argument = partial(click.argument, cls=Argument)
