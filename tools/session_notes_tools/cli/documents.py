"""JSON documents printed by `--json`. Every key is present, null if it has no value; durations are in seconds."""

import json
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from session_notes_tools.terminal_text import visible

if TYPE_CHECKING:
    from session_notes import DueSession, Notes, Reading, Run, Session, SessionSummary, Turn


def write(document: Any) -> None:
    """Print a document, indented on a terminal and on one line elsewhere."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "") == "utf8"
    text = json.dumps(document, ensure_ascii=not utf8, indent=2 if sys.stdout.isatty() else None)
    # JSON permits some characters that a terminal would interpret. Escaping them does not change the document.
    click.echo(visible(text, keep="\n", escape=lambda character: json.dumps(character)[1:-1]))


def value(content: Any) -> Any:
    """Return a JSON value with its names sorted, since maps on the wire have no stable order."""
    match content:
        case Mapping():
            return {name: value(item) for name, item in sorted(content.items())}
        case list() | tuple():
            return [value(item) for item in content]
    return content


def seconds(span: timedelta | None) -> float | None:
    """Return a duration in seconds."""
    return None if span is None else span.total_seconds()


def time(moment: datetime | None) -> str | None:
    """Return a time in the format of RFC 3339."""
    return None if moment is None else moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def notes(content: "Notes | None") -> dict[str, Any] | None:
    """Return notes, in the format that `notes write --file` accepts."""
    if content is None:
        return None
    return {
        "coverage": dict(sorted(content.coverage.items())),
        "issues": [
            {"text": issue.text, "severity": issue.severity.value, "turn": issue.turn} for issue in content.issues
        ],
        "follow_up_suggestions": list(content.follow_up_suggestions),
        "summary": content.summary,
        "extra": value(content.extra),
    }


def turn(content: "Turn") -> dict[str, Any]:
    """Return a turn, in the format that `session append --file` accepts on each line."""
    return {
        "speaker": content.speaker,
        "text": content.text,
        "time": time(content.time),
        "extra": value(content.extra),
    }


def run(content: "Run | None") -> dict[str, Any] | None:
    """Return a run."""
    if content is None:
        return None
    return {
        "run_id": content.run_id,
        "number": content.number,
        "observer": content.observer,
        "state": content.state.value,
        "observed_turn": content.observed_turn,
        "begin_time": time(content.begin_time),
        "end_time": time(content.end_time),
        "failure": content.failure,
        "notes": notes(content.notes),
    }


def reading(content: "Reading") -> dict[str, Any]:
    """Return current notes with readiness, age and drift."""
    return {
        "session_id": content.session_id,
        "observer": content.observer,
        "ready": content.ready,
        "readiness": content.readiness.value,
        "fresh": content.fresh,
        "age_seconds": seconds(content.age),
        "snapshot_age_seconds": seconds(content.snapshot_age),
        "turns_behind": content.turns_behind,
        "observed_turn": content.observed_turn,
        "write_time": time(content.write_time),
        "expires_in_seconds": seconds(content.expires_in),
        "notes": notes(content.notes),
        "run": run(content.run),
        "latest_run": run(content.latest_run),
    }


def session(content: "Session") -> dict[str, Any]:
    """Return a session."""
    return {
        "session_id": content.session_id,
        "version": content.version,
        "turn_count": content.turn_count,
        "create_time": time(content.create_time),
        "update_time": time(content.update_time),
        "expires_in_seconds": seconds(content.expires_in),
        "fields": value(content.fields),
        "notes": {observer: reading(observer_notes) for observer, observer_notes in sorted(content.notes.items())},
        "turns": [turn(utterance) for utterance in content.turns],
    }


def summary(content: "SessionSummary") -> dict[str, Any]:
    """Return the summary of a session."""
    return {
        "session_id": content.session_id,
        "version": content.version,
        "turn_count": content.turn_count,
        "update_time": time(content.update_time),
        "expires_in_seconds": seconds(content.expires_in),
        "observers": list(content.observers),
    }


def due(content: "DueSession") -> dict[str, Any]:
    """Return a session on which an observer has work to do."""
    return {
        "session_id": content.session_id,
        "turn_count": content.turn_count,
        "turns_behind": content.turns_behind,
        "quiet_seconds": seconds(content.quiet),
        "latest_run": run(content.latest_run),
    }


def export(content: "Session", runs: "Mapping[str, Iterable[Run]]") -> dict[str, Any]:
    """Return everything stored of a session, with the runs of each observer, newest first."""
    return session(content) | {"runs": {observer: [*map(run, entries)] for observer, entries in sorted(runs.items())}}
