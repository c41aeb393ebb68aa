"""The layout of `--help`: text wrapped to the terminal's width without breaking flags, variables or examples."""

from textwrap import fill

import click

from session_notes_tools.cli.parameters import Argument, Option

_SECOND_COLUMN = 26
"""The column in which descriptions start. A name too long for the first column gets a line to itself."""


class Command(click.Command):
    """A command with this layout."""

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text."""
        formatter.write(_help_text(self, ctx, formatter.width))


class Group(click.Group):
    """A group of commands with this layout."""

    command_class = Command

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help text."""
        formatter.write(_help_text(self, ctx, formatter.width))


def _help_text(command: click.Command, ctx: click.Context, width: int) -> str:
    parameters = command.get_params(ctx)
    arguments = [parameter for parameter in parameters if isinstance(parameter, Argument)]
    usage = [ctx.command_path, command.options_metavar or "", *map(_argument_usage, arguments)]
    sections: dict[str, list[tuple[str, str]]] = {
        "Arguments": [(argument.metavar or "", argument.help or "") for argument in arguments],
        "Options": [],
    }
    for parameter in parameters:
        if isinstance(parameter, click.Option):
            # Only click's own --help has no panel.
            panel = parameter.panel if isinstance(parameter, Option) else "Options"
            sections.setdefault(panel, []).append(_option_row(parameter))
    if isinstance(command, click.Group):
        usage.append(command.subcommand_metavar)
        # The first paragraph is the command's summary.
        sections["Commands"] = [
            (name, _paragraphs(subcommand.help)[0]) for name, subcommand in command.commands.items()
        ]
    blocks = [_wrap(f"Usage: {' '.join(usage)}", width, indent=7)]
    blocks += [_wrap(paragraph, width) for paragraph in _paragraphs(command.help)]
    blocks += [
        "\n".join([f"{title}:", *(_row(names, text, width) for names, text in rows)])
        for title, rows in sections.items()
        if rows
    ]
    # Examples and exit codes keep their line breaks.
    blocks += [command.epilog] if command.epilog else []
    return "\n\n".join(blocks) + "\n"


def _argument_usage(argument: Argument) -> str:
    name = f"{argument.metavar}" if argument.required else f"[{argument.metavar}]"
    return name if argument.nargs == 1 else f"{name}..."


def _option_row(option: click.Option) -> tuple[str, str]:
    # By convention, the short form comes first.
    names = ", ".join(sorted(option.opts, key=len))
    description = [option.help or ""]
    if isinstance(option, Option) and option.default_in_words:
        description.append(f"[default: {option.default_in_words}]")
    if option.envvar:
        description.append(f"[env:\N{NO-BREAK SPACE}{option.envvar}]")
    return names if option.is_flag else f"{names} {option.metavar}", " ".join(description)


def _paragraphs(text: str | None) -> list[str]:
    return [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]


def _row(names: str, text: str, width: int) -> str:
    lines = _wrap(text, width - _SECOND_COLUMN).split("\n")
    first = f"  {names}"
    below = [" " * _SECOND_COLUMN + line for line in lines]
    if len(first) + 2 > _SECOND_COLUMN:
        return "\n".join([first, *below])
    return "\n".join([first.ljust(_SECOND_COLUMN) + lines[0], *below[1:]])


def _wrap(text: str, width: int, *, indent: int = 0) -> str:
    lines = fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False, break_long_words=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")
