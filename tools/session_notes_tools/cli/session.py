"""`session-notes session get`, `set`, `append`, `export`, `delete` and `list`."""

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from session_notes_tools.cli.exits import ExitCode, Failure
from session_notes_tools.cli.help import Group
from session_notes_tools.cli.options import (
    common_options,
    json_object,
    json_value,
    name_and_value,
    observer_client,
    primary_client,
    read_text,
    session_argument,
    usage_error,
)
from session_notes_tools.cli.parameters import argument, option, path_option, span_option

if TYPE_CHECKING:
    from session_notes import Session, SessionSummary, Turn

app = Group("session", help="Read and change sessions: fields and transcript.")

_TURN_KEYS = ("speaker", "text", "time", "extra")

_EXPORT_ATTEMPTS = 3
"""How often an export begins anew because the session changed while it was read."""


@app.command(epilog="Example: session-notes session get s1 --turns")
@session_argument
@option("--turns", is_flag=True, help="Show the stored transcript too.")
@common_options
def get(
    session_id: str,
    turns: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show a session: fields, version, and a summary of each observer's notes.

    The exit code is 6 if the session does not exist.
    """
    from session_notes_tools.cli import documents, views

    session = _existing_session(target, timeout, session_id, include_turns=turns)
    if as_json:
        documents.write(documents.session(session))
    else:
        views.show_session(session)


@app.command(
    "set",
    epilog='Examples:\n  session-notes session set s1 goal=refund attempts=2 \'items=["a", "b"]\'\n'
    "  session-notes session set s1 --remove goal --expected-version 3 --ttl 2h",
)
@session_argument
@argument(
    "fields",
    nargs=-1,
    metavar="NAME=VALUE",
    help="Fields to set. A value that is valid JSON is stored as JSON, any other as text. "
    "To store 2 as text, write '\"2\"' with both kinds of quotes.",
)
@option("--remove", multiple=True, metavar="NAME", help="A field to remove. Repeatable.")
@option(
    "--expected-version",
    type=int,
    metavar="N",
    help="Change nothing, and exit with 5, unless the session is at this version.",
)
@span_option(
    "--ttl",
    help="The time to keep the session after its last change, from now on: 90s, 2h, 7d.",
    show_default="unchanged",
)
@common_options
def set_(
    session_id: str,
    fields: tuple[str, ...],
    remove: tuple[str, ...],
    expected_version: int | None,
    ttl: timedelta | None,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Set and remove fields atomically. Other fields remain unchanged."""
    from session_notes_tools.cli import documents, output

    pairs = [name_and_value("NAME=VALUE", text) for text in fields]
    if not pairs and not remove and ttl is None:
        raise usage_error("nothing to change", "give NAME=VALUE, --remove or --ttl")
    changes = {name: _field_value(text) for name, text in pairs}
    if len(changes) < len(pairs):
        raise usage_error("NAME=VALUE", "a field is set twice")
    with primary_client(target, timeout) as client:
        result = client.update_session(session_id, changes, remove=remove, expected_version=expected_version, ttl=ttl)
    if as_json:
        time = documents.time(result.update_time)
        documents.write({"session_id": session_id, "version": result.version, "update_time": time})
    else:
        output.echo(output.id_line((session_id, "bold"), f" is at version {result.version}"))


@app.command(
    epilog="Examples:\n  session-notes session append s1 user 'Start in May?' primary 'Let me see.'\n"
    "  session-notes session append s1 --file turns.jsonl --expected-turn-count 0"
)
@session_argument
@argument("turns", nargs=-1, metavar="SPEAKER TEXT", help="The turns to append, oldest first.")
@path_option(
    "--file",
    help="Read the turns from this file instead (- for stdin), one JSON object per line with speaker, text and, "
    "optionally, time and extra.",
)
@option(
    "--expected-turn-count",
    type=int,
    metavar="N",
    help="Append nothing, and exit with 5, unless the transcript has this many turns.",
)
@common_options
def append(
    session_id: str,
    turns: tuple[str, ...],
    file: Path | None,
    expected_turn_count: int | None,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Append turns to the transcript atomically."""
    from session_notes import Turn

    from session_notes_tools.cli import documents, output, phrases

    if (file is None) == (not turns):
        raise usage_error(
            "SPEAKER TEXT", "give turns or a --file" if file is None else "give turns or a --file, not both"
        )
    if len(turns) % 2:
        raise usage_error("SPEAKER TEXT", f"no text follows the speaker {turns[-1]!r}")
    transcript = [Turn(*pair) for pair in zip(turns[::2], turns[1::2], strict=True)]
    if file is not None:
        lines = read_text(file).split("\n")
        transcript = [_turn(number, text) for number, text in enumerate(lines, 1) if text.strip()]
    with primary_client(target, timeout) as client:
        count = client.append_turns(session_id, transcript, expected_turn_count=expected_turn_count)
    if as_json:
        documents.write({"session_id": session_id, "turn_count": count})
    else:
        output.echo(output.id_line((session_id, "bold"), f" has {phrases.count(count, 'turn')}"))


@app.command(epilog="Example: session-notes session export s1 --output s1.json")
@session_argument
@path_option("--output", help="Write to this new file, which only you can read.", show_default="stdout")
@common_options
def export(
    session_id: str,
    output: Path | None,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Print all data of a session as one JSON document, for a person who asks for it.

    It has the fields, the stored transcript, and for each observer the current notes and the last 20 runs, with their
    notes and failures. The exit code is 6 if the session does not exist.
    """
    from session_notes_tools.cli import documents

    for _ in range(_EXPORT_ATTEMPTS):
        session = _existing_session(target, timeout, session_id, include_turns=True)
        runs = {}
        for observer in session.notes:
            with observer_client(target, timeout, observer) as client:
                runs[observer] = list(client.list_runs(session_id, include_notes=True))
        # Every change of a session sets its update time.
        if unchanged := _existing_session(target, timeout, session_id).update_time == session.update_time:
            break
    if not unchanged:
        warning = "the session kept changing, so its runs may be newer than the rest; export it again once it is quiet"
        click.echo(f"warning: {warning}", err=True)
    document = documents.export(session, runs)
    if output is None:
        documents.write(document)
        return
    try:
        with os.fdopen(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(document, file, ensure_ascii=False, indent=2)
            file.write("\n")
    except FileExistsError as error:
        raise usage_error("--output", "the file exists already; name a new one") from error
    except OSError as error:
        raise usage_error("--output", f"cannot be written: {error.strerror}") from error


def _existing_session(target: str, timeout: timedelta, session_id: str, *, include_turns: bool = False) -> "Session":
    """Read a session, which must exist."""
    with primary_client(target, timeout) as client:
        session = client.get_session(session_id, include_turns=include_turns)
    if session.create_time is None:
        raise Failure(f"session {session_id} does not exist", ExitCode.NOT_FOUND)
    return session


@app.command(epilog="Example: session-notes session delete s1 --yes")
@session_argument
@option("--yes", "-y", is_flag=True, help="Delete without confirmation. Required if stdin is not a terminal.")
@common_options
def delete(
    session_id: str,
    yes: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Delete all data of a session: fields, transcript, notes and runs.

    An in-flight run cannot resurrect it. Deleting a session that does not exist is not an error.
    """
    from session_notes_tools.cli import documents, output

    if not yes and not sys.stdin.isatty():
        raise usage_error("--yes", "required because stdin is not a terminal")
    if not yes:
        click.confirm(f"Delete session {output.plain(session_id)} permanently?", abort=True, err=True)
    with primary_client(target, timeout) as client:
        existed = client.delete_session(session_id)
    if as_json:
        documents.write({"session_id": session_id, "existed": existed})
    else:
        output.echo(output.id_line((session_id, "bold"), " deleted" if existed else " did not exist"))


@app.command("list", epilog="Example: session-notes session list --json | jq -r '.[].session_id'")
@common_options
def list_(
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show all sessions, most recently changed first. This scans the whole store."""
    from session_notes_tools.cli import documents, views

    with primary_client(target, timeout) as client:
        # A session that changes during the listing can appear twice.
        by_id = {summary.session_id: summary for summary in client.list_sessions()}
    summaries = sorted(by_id.values(), key=_update_time, reverse=True)
    if as_json:
        documents.write([documents.summary(summary) for summary in summaries])
    else:
        views.show_sessions(summaries)


def _update_time(summary: "SessionSummary") -> tuple[datetime, str]:
    return summary.update_time or datetime.min.replace(tzinfo=UTC), summary.session_id


def _field_value(text: str) -> Any:
    try:
        return json_value(text)
    except ValueError:
        return text


def _turn(number: int, text: str) -> "Turn":
    """Parse a turn in the format of `documents.turn`. The keys time and extra may be missing or null."""
    from session_notes import Turn

    where = f"line {number}"
    content = json_object("--file", text, where=where)
    if unknown := sorted(content.keys() - set(_TURN_KEYS)):
        raise usage_error("--file", f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(_TURN_KEYS)}")
    for key in ("speaker", "text"):
        if not isinstance(content.get(key), str):
            raise usage_error("--file", f"{where}: {key} must be a string")
    extra = content.get("extra")
    if extra is not None and not isinstance(extra, dict):
        raise usage_error("--file", f"{where}: extra must be an object")
    return Turn(content["speaker"], content["text"], _time(where, content.get("time")), extra or {})


def _time(where: str, content: Any) -> datetime | None:
    if content is None:
        return None
    try:
        time = datetime.fromisoformat(content)
    except (TypeError, ValueError):
        time = None
    if time is None or time.tzinfo is None:
        raise usage_error("--file", f"{where}: time must be RFC 3339 with a time zone: 2026-01-31T12:00:00Z")
    return time
