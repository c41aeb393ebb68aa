"""How `--help` looks: plain text as wide as the terminal, in which no flag, variable or example is cut or broken."""

from textwrap import fill
from typing import Any

from typer.core import TyperCommand, TyperGroup

_COLUMN = 26
"""Where the second column starts; what is too long for the first one has a line of its own."""


class Command(TyperCommand):
    """A command with such a help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write it."""
        formatter.write(_help(self, ctx, formatter.width))


class Group(TyperGroup):
    """Commands with such a help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write it."""
        formatter.write(_help(self, ctx, formatter.width))


def _help(command: Any, ctx: Any, width: int) -> str:
    parameters = command.get_params(ctx)
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    usage = [ctx.command_path, command.options_metavar, *map(_usage, arguments)]
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [(one.metavar, one.help) for one in arguments]}
    for one in parameters:
        if one.param_type_name == "option":
            sections.setdefault(one.rich_help_panel or "Options", []).append(_option(one))
    if isinstance(command, TyperGroup):
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


def _usage(argument: Any) -> str:
    name = argument.metavar if argument.required else f"[{argument.metavar}]"
    return name if argument.nargs == 1 else f"{name}..."


def _option(option: Any) -> tuple[str, str]:
    # The short form first, as everywhere.
    names = ", ".join(sorted([*option.opts, *option.secondary_opts], key=len))
    default = option.show_default if isinstance(option.show_default, str) else ""
    if option.show_default is True and not option.is_flag and option.default is not None:
        default = str(option.default)
    facts = [f"[default: {default}]"] if default else []
    # No break within it.
    facts += [f"[env:\N{NO-BREAK SPACE}{option.envvar}]"] if option.envvar else []
    return names if option.is_flag else f"{names} {option.metavar}", " ".join([option.help, *facts])


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
