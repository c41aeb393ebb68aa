"""`session-notes doctor`."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit
from session_notes_server.settings import InvalidSetting, Settings, StartupError

from session_notes_tools.cli.credentials import tls, token
from session_notes_tools.cli.help import Command
from session_notes_tools.cli.options import common_options
from session_notes_tools.cli.parameters import option
from session_notes_tools.cli.store_options import PANEL, min_replicas_acked_option, prefix_option, redis_secrets_options

if TYPE_CHECKING:
    from session_notes_tools.doctor.findings import Finding

_STYLES = {"ok": "green", "skipped": "dim", "warning": "yellow", "problem": "bold red"}
# The lengths of the longest verdict and the longest check name.
_COLUMN_WIDTHS = (7, 11)


@click.command(
    cls=Command,
    epilog="Examples:\n  session-notes doctor\n  session-notes doctor --redis-url redis://localhost:6379/0 --write",
)
@option(
    "--redis-url",
    metavar="URL",
    envvar="SESSION_NOTES_REDIS_URL",
    panel=PANEL,
    help="Also check this Redis or Valkey. See `serve` for the forms of the URL.",
    show_default="only the sidecar is checked",
)
@redis_secrets_options
@min_replicas_acked_option
@prefix_option
@option(
    "--write",
    is_flag=True,
    help="Also write, read and delete notes in a temporary session. Requires an admin's token.",
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
    """Check a sidecar and its store, and advise on each problem.

    The checks cover the sidecar's address, TLS, health and version, and your token. With --redis-url, they also cover
    the version, eviction, persistence and expiry of Redis, and the permissions of its user. Nothing is changed without
    --write. The exit code is 1 if there is a problem, and 0 if there are only warnings.
    """
    from session_notes_server.sidecar.resources import redis_target

    from session_notes_tools.cli import documents, output, phrases
    from session_notes_tools.cli.exits import ExitCode, Failure
    from session_notes_tools.doctor.findings import Finding, Verdict, problem
    from session_notes_tools.doctor.sidecar import check_sidecar
    from session_notes_tools.doctor.store import check_store

    parts: dict[str, Iterable[Finding]] = {
        "sidecar": check_sidecar(target, token, lambda: tls(target), timeout, write=write)
    }
    settings = Settings(
        redis_url=redis_url,
        redis_password_file=redis_password_file,
        redis_ca=redis_ca,
        redis_cert=redis_cert,
        redis_key=redis_key,
        sentinel_user=sentinel_user,
        sentinel_password_file=sentinel_password_file,
        min_replicas_acked=min_replicas_acked,
    )
    try:
        if redis_url is not None and (redis := redis_target(settings)):
            parts["redis"] = check_store(redis, prefix, timeout=timeout, min_replicas=min_replicas_acked)
    except InvalidSetting as error:
        raise Failure(str(error), ExitCode.USAGE) from error
    except StartupError as error:
        parts["redis"] = [problem("files", str(error), "fix the file; a sidecar would not start with it either")]
    checks: list[dict[str, Any]] = []
    for part, findings in parts.items():
        if not as_json:
            output.echo(output.line((part, "bold")))
        for finding in findings:
            checks.append({"about": part, **_document(finding)})
            if not as_json:
                _show(finding)
    problems = sum(check["verdict"] == Verdict.PROBLEM for check in checks)
    warnings = sum(check["verdict"] == Verdict.WARNING for check in checks)
    if as_json:
        documents.write({"target": target, "ok": not problems, "checks": checks})
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
    """Print a finding immediately, since the next check may take time."""
    from session_notes_tools.cli import output

    row = output.grid()
    for width in _COLUMN_WIDTHS:
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
