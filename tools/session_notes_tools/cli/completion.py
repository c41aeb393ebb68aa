"""`session-notes completion`."""

import click
from click.shell_completion import shell_complete

from session_notes_tools.cli.help import Command
from session_notes_tools.cli.parameters import argument


@click.command(
    cls=Command,
    epilog="Examples:\n"
    '  eval "$(session-notes completion bash)"    # in ~/.bashrc\n'
    '  eval "$(session-notes completion zsh)"     # in ~/.zshrc, after compinit\n'
    "  session-notes completion fish > ~/.config/fish/completions/session-notes.fish",
)
@argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL", help="bash, zsh or fish.")
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell script that completes commands, options and values.

    For bash, version 4.4 or newer is required.
    """
    # The name is fixed because the script completes `session-notes`, however this program was started.
    shell_complete(ctx.find_root().command, {}, "session-notes", "_SESSION_NOTES_COMPLETE", f"{shell}_source")
