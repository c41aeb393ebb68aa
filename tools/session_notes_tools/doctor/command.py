"""`session-notes doctor`."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit
from session_notes_server.settings import InvalidSetting, StartupError

from session_notes_tools.cli.credentials import tls, token
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import common_options
from session_notes_tools.cli.parameters import option
from session_notes_tools.cli.store_options import PANEL, min_replicas_acked_option, prefix_option, redis_secrets_options

if TYPE_CHECKING:
    from session_notes_tools.doctor.findings import Finding

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "problem": "bold red"}
# As wide as the longest verdict, and the longest name of a check.
_WIDTHS = (7, 11)


@click.command(
    cls=Command,
    epilog="Examples:\n  session-notes doctor\n  session-notes doctor --redis-url redis://localhost:6379/0 --write",
)
@option(
    "--redis-url",
    metavar="URL",
    envvar="SESSION_NOTES_REDIS_URL",
    panel=PANEL,
    help="Look at this Redis or Valkey, too: as `serve` has it.",
    show_default="the sidecar alone is looked at",
)
@redis_secrets_options
@min_replicas_acked_option
@prefix_option
@option(
    "--write",
    is_flag=True,
    help="Also write, read and delete notes, in a session made for this. It takes the token of an admin.",
)
@common_options
def doctor(
    redis_url: str | None,
    redis_password_file: Path | None,
    redis_ca: Path | None,
    redis_cert: Path | None,
    redis_key: Path | None,
    sentinel_user: str,
    sentinel_password_file: Path | None,
    min_replicas_acked: int,
    prefix: str,
    write: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Check a sidecar and its store, and say what to do about what is wrong.

    The sidecar: its address, TLS, health, your token, its version. Redis, with --redis-url: its version, whether it
    evicts, keeps and expires what it should, and what its user may do. Nothing is changed, unless with --write. The
    exit code is 1 if there is a problem; warnings leave it at 0.
    """
    from session_notes_server.store import RedisSecrets, RedisTarget

    from session_notes_tools.cli import documents, output, phrases
    from session_notes_tools.cli.exits import ExitCode, Failure
    from session_notes_tools.doctor import sidecar, store
    from session_notes_tools.doctor.findings import Finding, Verdict, problem

    asked = sidecar.Asked(target, token, lambda: tls(target), timeout)
    parts: dict[str, Iterable[Finding]] = {"sidecar": sidecar.checked(asked, write=write)}
    if redis_url is not None:
        try:
            secrets = RedisSecrets(
                password_file=redis_password_file,
                ca=redis_ca,
                cert=redis_cert,
                key=redis_key,
                sentinel_user=sentinel_user,
                sentinel_password_file=sentinel_password_file,
            )
            redis = RedisTarget.parse(redis_url, secrets)
            parts["redis"] = store.checked(redis, prefix, timeout=timeout, min_replicas=min_replicas_acked)
        except InvalidSetting as error:
            raise Failure(str(error), ExitCode.USAGE) from error
        except StartupError as error:
            parts["redis"] = [problem("files", str(error), "a sidecar would not start on it either")]
    found: list[dict[str, Any]] = []
    for about, findings in parts.items():
        if not as_json:
            output.echo(output.line((about, "bold")))
        for finding in findings:
            found.append({"about": about, **_document(finding)})
            if not as_json:
                _show(finding)
    problems = sum(one["verdict"] == Verdict.PROBLEM for one in found)
    warnings = sum(one["verdict"] == Verdict.WARNING for one in found)
    if as_json:
        documents.write({"target": target, "ok": not problems, "checks": found})
    else:
        output.echo(output.line(f"{phrases.count(problems, 'problem')}, {phrases.count(warnings, 'warning')}"))
    if problems:
        raise Exit(ExitCode.UNEXPECTED)


def _document(finding: "Finding") -> dict[str, Any]:
    return {
        "check": finding.check,
        "verdict": finding.verdict.value,
        "says": finding.says,
        "advice": finding.advice or None,
    }


def _show(finding: "Finding") -> None:
    """At once, as the next check may take its time."""
    from rich.table import Table

    from session_notes_tools.cli import output

    row = Table.grid(padding=(0, 2))
    for width in _WIDTHS:
        row.add_column(width=width)
    row.add_column(overflow="fold")
    row.add_row(
        output.line((finding.verdict.value, _STYLES[finding.verdict.value])),
        output.line(finding.check),
        output.line(finding.says),
    )
    if finding.advice:
        row.add_row("", "", output.line(f"-> {finding.advice}"))
    output.echo(row)
