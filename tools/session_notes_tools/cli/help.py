"""How `--help` looks: plain text as wide as the terminal, in which no flag, variable or example is cut or broken."""

from textwrap import fill

import click

from session_notes_tools.cli.parameters import Argument, Option

_COLUMN = 26
"""Where the second column starts; what is too long for the first one has a line of its own."""


class Command(click.Command):
    """A command with such a help."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write it."""
        formatter.write(_help(self, ctx, formatter.width))


class Group(click.Group):
    """Commands with such a help."""

    command_class = Command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write it."""
        formatter.write(_help(self, ctx, formatter.width))


def _help(command: click.Command, ctx: click.Context, width: int) -> str:
    parameters = command.get_params(ctx)
    arguments = [one for one in parameters if isinstance(one, Argument)]
    usage = [ctx.command_path, command.options_metavar or "", *map(_usage, arguments)]
    sections: dict[str, list[tuple[str, str]]] = {
        "Arguments": [(one.metavar or "", one.help or "") for one in arguments]
    }
    for one in parameters:
        if isinstance(one, click.Option):
            # The one that is not ours is click's --help.
            sections.setdefault(one.panel if isinstance(one, Option) else "Options", []).append(_option(one))
    if isinstance(command, click.Group):
        usage.append(command.subcommand_metavar)
        # The first sentences say what it does.
        sections["Commands"] = [(name, _paragraphs(one.help)[0]) for name, one in command.commands.items()]
    blocks = [_wrapped(f"Usage: {' '.join(usage)}", width, indent=7)]
    blocks += [_wrapped(paragraph, width) for paragraph in _paragraphs(command.help)]
    blocks += [
        "\n".join([f"{title}:", *(_row(names, text, width) for names, text in rows)])
        for title, rows in sections.items()
        if rows
    ]
    # Examples and exit codes stand as they were written.
    blocks += [command.epilog] if command.epilog else []
    return "\n\n".join(blocks) + "\n"


def _usage(argument: Argument) -> str:
    name = f"{argument.metavar}" if argument.required else f"[{argument.metavar}]"
    return name if argument.nargs == 1 else f"{name}..."


def _option(option: click.Option) -> tuple[str, str]:
    # The short form first, as everywhere.
    names = ", ".join(sorted(option.opts, key=len))
    facts = [option.help or ""]
    if isinstance(option, Option) and option.default_in_words:
        facts.append(f"[default: {option.default_in_words}]")
    if option.envvar:
        # No break within it.
        facts.append(f"[env:\N{NO-BREAK SPACE}{option.envvar}]")
    return names if option.is_flag else f"{names} {option.metavar}", " ".join(facts)


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]


def _row(names: str, text: str, width: int) -> str:
    lines = _wrapped(text, width - _COLUMN).split("\n")
    first = f"  {names}"
    below = [" " * _COLUMN + line for line in lines]
    if len(first) + 2 > _COLUMN:
        return "\n".join([first, *below])
    return "\n".join([first.ljust(_COLUMN) + lines[0], *below[1:]])


def _wrapped(text: str, width: int, *, indent: int = 0) -> str:
    lines = fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
