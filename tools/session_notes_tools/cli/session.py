"""`session-notes session get`, `set`, `append`, `delete` and `list`."""

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
    named,
    primary,
    session_argument,
    text_of,
    usage_error,
)
from session_notes_tools.cli.parameters import argument, option, path_option, span_option

if TYPE_CHECKING:
    from session_notes import SessionSummary, Turn

app = Group("session", help="Read and change sessions: fields and transcript.")


@app.command(epilog="Example: session-notes session get s1 --turns")
@session_argument
@option("--turns", is_flag=True, help="Show the transcript: its last 2,000 turns.")
@common_options
def get(
    session_id: str,
    turns: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show a session: fields, version, every observer's notes in a few words.

    Exits with 6 where there is no such session.
    """
    from session_notes_tools.cli import documents, views

    with primary(target, timeout) as client:
        session = client.get_session(session_id, include_turns=turns)
    if session.create_time is None:
        raise Failure(f"there is no session {session_id}", ExitCode.NOT_FOUND)
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
    help="Fields to set. A value that is JSON is taken as JSON, else as text; "
    "for the text 2 write '\"2\"', in both quotes.",
)
@option("--remove", multiple=True, metavar="NAME", help="A field to remove. Can be given several times.")
@option(
    "--expected-version",
    type=int,
    metavar="N",
    help="Change nothing, and exit with 5, unless the session is at this version.",
)
@span_option(
    "--ttl",
    help="From now on, how long the session is kept after its last change: 90s, 2h, 7d.",
    show_default="as it was",
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
    """Set and remove fields, all at once, without touching the others."""
    from session_notes_tools.cli import documents, output

    given = [named("NAME=VALUE", text) for text in fields]
    if not given and not remove and ttl is None:
        raise usage_error("nothing to change", "give NAME=VALUE, --remove or --ttl")
    changes = {name: _field_value(text) for name, text in given}
    if len(changes) < len(given):
        raise usage_error("NAME=VALUE", "one field is set twice")
    with primary(target, timeout) as client:
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
@argument("turns", nargs=-1, metavar="SPEAKER TEXT", help="What was said, oldest first.")
@path_option(
    "--file",
    help="Take the turns from a file instead, - for stdin: one JSON object a line, with speaker, text, time, extra.",
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
    """Append turns to the transcript, all at once."""
    from session_notes import Turn

    from session_notes_tools.cli import documents, output, phrases

    if (file is None) == (not turns):
        raise usage_error(
            "turns", "give SPEAKER TEXT …, or a --file" if file is None else "give SPEAKER TEXT … or a --file, not both"
        )
    if len(turns) % 2:
        raise usage_error("SPEAKER TEXT", f"after the speaker {turns[-1]!r} there is no text")
    said = [Turn(*pair) for pair in zip(turns[::2], turns[1::2], strict=True)]
    if file is not None:
        said = [_turn(number, text) for number, text in enumerate(text_of(file).split("\n"), 1) if text.strip()]
    with primary(target, timeout) as client:
        count = client.append_turns(session_id, said, expected_turn_count=expected_turn_count)
    if as_json:
        documents.write({"session_id": session_id, "turn_count": count})
    else:
        output.echo(output.id_line((session_id, "bold"), f" has {phrases.count(count, 'turn')}"))


@app.command(epilog="Example: session-notes session delete s1 --yes")
@session_argument
@option("--yes", "-y", is_flag=True, help="Do not ask; needed where nobody can be asked.")
@common_options
def delete(
    session_id: str,
    yes: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Remove every trace of a session: fields, transcript, notes, runs.

    Observers still at work on it cannot bring it back. A session that is not there is no error.
    """
    from session_notes_tools.cli import documents, output

    if not yes and not sys.stdin.isatty():
        raise usage_error("--yes", "needed, as there is no terminal to ask on")
    if not yes:
        click.confirm(f"Delete session {output.plain(session_id)} for good?", abort=True, err=True)
    with primary(target, timeout) as client:
        existed = client.delete_session(session_id)
    if as_json:
        documents.write({"session_id": session_id, "existed": existed})
    else:
        output.echo(
            output.id_line((session_id, "bold"), " deleted")
            if existed
            else output.id_line("there was no session ", session_id)
        )


@app.command("list", epilog="Example: session-notes session list --json | jq -r '.[].session_id'")
@common_options
def list_(
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show all sessions, the last changed first. It walks the whole store."""
    from session_notes_tools.cli import documents, views

    with primary(target, timeout) as client:
        # By id, as one that changes meanwhile can come twice.
        found = {one.session_id: one for one in client.list_sessions()}
    sessions = sorted(found.values(), key=_changed, reverse=True)
    if as_json:
        documents.write([documents.summary(one) for one in sessions])
    else:
        views.show_sessions(sessions)


def _changed(summary: "SessionSummary") -> tuple[datetime, str]:
    return summary.update_time or datetime.min.replace(tzinfo=UTC), summary.session_id


def _field_value(text: str) -> Any:
    try:
        return json_value(text)
    except ValueError:
        return text


def _turn(number: int, text: str) -> "Turn":
    """A turn of what `documents.turn` makes of it; keys but the speaker's and the text's may be missing or null."""
    from session_notes import Turn

    where = f"line {number}"
    content = json_object("--file", text, where=where)
    if unknown := sorted(content.keys() - {"speaker", "text", "time", "extra"}):
        raise usage_error("--file", f"{where}: unknown key {unknown[0]!r}; there are speaker, text, time, extra")
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
        raise usage_error("--file", f"{where}: time must be a time with its zone: 2026-01-31T12:00:00Z")
    return time
