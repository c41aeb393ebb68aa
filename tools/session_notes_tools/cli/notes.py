"""`session-notes notes get` and `notes write`."""

import difflib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click.exceptions import Exit

from session_notes_tools.cli.exits import ExitCode
from session_notes_tools.cli.help import Group
from session_notes_tools.cli.options import (
    common_options,
    is_known,
    json_object,
    observer_option,
    observing,
    primary,
    session_argument,
    text_of,
    usage_error,
)
from session_notes_tools.cli.parameters import option, path_option, span_option, span_or_zero

if TYPE_CHECKING:
    from session_notes import Issue, Notes

app = Group("notes", help="Read and write notes.")

_KEYS = ("coverage", "issues", "follow_up_suggestions", "summary", "extra")


@app.command(
    epilog="Examples:\n  session-notes notes get s1\n"
    "  session-notes notes get s1 --max-age 30s --max-turns-behind 2 --fresh --json"
)
@session_argument
@observer_option
@span_option("--max-age", type=span_or_zero, help="The oldest that still counts as fresh: 30s, 5m.")
@option(
    "--current-turn",
    type=int,
    metavar="N",
    help="How many turns the conversation has.",
    show_default="as many as the sidecar has",
)
@option(
    "--max-turns-behind", type=int, metavar="N", help="How many turns may have come since, for the notes to be fresh."
)
@option("--fresh", is_flag=True, help="Exit with 3 where the notes are not fresh, too.")
@common_options
def get(
    session_id: str,
    observer: str,
    max_age: timedelta | None,
    current_turn: int | None,
    max_turns_behind: int | None,
    fresh: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show the current notes, how old they are, and how far behind.

    Exits with 3 where none are ready: nobody wrote any yet, the run failed, or they have expired.
    """
    from session_notes import Readiness

    from session_notes_tools.cli import documents, views

    with primary(target, timeout) as client:
        reading = client.get_notes(
            session_id,
            observer=observer,
            max_age=max_age,
            current_turn=current_turn,
            max_turns_behind=max_turns_behind,
        )
        known = as_json or reading.readiness is not Readiness.NEVER_RUN or is_known(client, session_id)
    if as_json:
        documents.write(documents.reading(reading))
    else:
        views.show_reading(reading, known=known, max_age=max_age, max_turns_behind=max_turns_behind)
    if not (reading.fresh if fresh else reading.ready):
        raise Exit(ExitCode.NOT_READY)


@app.command(
    epilog="Examples:\n"
    "  session-notes notes write s1 --summary 'Goals are clear.' \\\n"
    "    --coverage goals=1 --issue 'warning:No budget yet'\n"
    "  session-notes notes write s1 --file notes.json --run-id r1 --observed-turn 12"
)
@session_argument
@option("--summary", metavar="TEXT", help="Where the conversation stands.", default="")
@option(
    "--coverage",
    multiple=True,
    metavar="TOPIC=SHARE",
    help="How much of a topic is covered, 0 to 1. Can be given several times.",
)
@option(
    "--issue",
    multiple=True,
    metavar="SEVERITY:TEXT",
    help="Something worth raising; info, warning, critical, or the text alone. Can be given several times.",
)
@option("--follow-up", multiple=True, metavar="TEXT", help="What to say or ask next. Can be given several times.")
@option("--extra", metavar="JSON", help="Anything else, as a JSON object.")
@path_option(
    "--file", help="Take the notes from a file instead, - for stdin: what `notes get --json` has under `notes`."
)
@option("--run-id", metavar="RUN", help="The run that concluded them.", show_default="a new one")
@option(
    "--observed-turn", type=int, metavar="N", help="How many turns the run has seen.", show_default="as its begin said"
)
@span_option("--ttl", help="How long the notes count: 90s, 15m, 24h.", show_default="as long as the session")
@observer_option
@common_options
def write(
    session_id: str,
    summary: str,
    coverage: tuple[str, ...],
    issue: tuple[str, ...],
    follow_up: tuple[str, ...],
    extra: str | None,
    file: Path | None,
    run_id: str | None,
    observed_turn: int | None,
    ttl: timedelta | None,
    observer: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Write the notes of a run.

    They become the current ones, unless a newer run has written: then they go to the history alone, exit code 5.
    The same notes for the same run again change nothing.
    """
    from session_notes import WriteOutcome

    from session_notes_tools.cli import documents, output

    given: dict[str, Any] = {
        "summary": summary,
        "coverage": dict(_coverage(text) for text in coverage),
        "issues": [_issue(text) for text in issue],
        "follow_up_suggestions": list(follow_up),
        "extra": {} if extra is None else json_object("--extra", extra),
    }
    if file is not None and any(given.values()):
        raise usage_error("--file", "give the notes in a file or in options, not both")
    if file is None and not any(given.values()):
        raise usage_error("nothing to write", "give --summary or another part, or a --file; {} in it makes empty notes")
    notes = _notes(given if file is None else json_object("--file", text_of(file)))
    with observing(target, timeout, observer) as client:
        result = client.write_notes(session_id, notes, run_id=run_id, observed_turn=observed_turn, ttl=ttl)
    if as_json:
        documents.write(
            {
                "session_id": session_id,
                "outcome": result.outcome.value,
                "write_time": documents.time(result.write_time),
                "run": documents.run(result.run),
            }
        )
    else:
        meaning = {
            WriteOutcome.ACCEPTED: "these are the current notes now",
            WriteOutcome.DUPLICATE: "this run had written the same notes before; nothing changed",
            WriteOutcome.SUPERSEDED: "a newer run has written; these notes went to the history alone",
        }.get(result.outcome, "this program is too old to know what that means")
        output.echo(
            output.line((result.outcome.value, "bold"), f": {meaning}"),
            output.id_line((f"run {result.run.number} ({result.run.run_id}) of {result.run.observer}", "dim")),
        )
    if result.outcome is WriteOutcome.SUPERSEDED:
        raise Exit(ExitCode.REFUSED)


def _coverage(text: str) -> tuple[str, float]:
    # At the last "=": a topic may have one.
    topic, _, share = text.rpartition("=")
    try:
        return topic, float(share)
    except ValueError:
        raise usage_error("--coverage", f"write TOPIC=SHARE, such as goals=0.5, not {text!r}") from None


def _issue(text: str) -> dict[str, Any]:
    word, colon, rest = text.partition(":")
    severities = ("info", "warning", "critical")
    severity = word.strip().lower()
    if colon and severity in severities:
        return {"severity": severity, "text": rest.lstrip()}
    if colon and (meant := _meant(severity, severities)):
        raise usage_error("--issue", f"there is no severity {word.strip()!r}: write {meant}:TEXT, or a text without it")
    return {"text": text}


def _meant(word: str, severities: Sequence[str]) -> str | None:
    """Return the severity that a word is short for, or comes close to."""
    short = [severity for severity in severities if len(word) > 2 and severity.startswith(word)]
    return next(iter([*short, *difflib.get_close_matches(word, severities, 1, 0.75)]), None)


def _notes(content: dict[str, Any]) -> "Notes":
    """Notes of what `documents.notes` makes of them; keys may be missing or null."""
    from session_notes import Notes

    if unknown := sorted(content.keys() - set(_KEYS)):
        raise usage_error("--file", f"unknown key {unknown[0]!r}; there are {', '.join(_KEYS)}")
    shares = _part(content, "coverage", dict)
    for topic, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float):
            raise usage_error("--file", f"coverage[{topic!r}] must be a number from 0 to 1")
    suggestions = _part(content, "follow_up_suggestions", list)
    if not all(isinstance(one, str) for one in suggestions):
        raise usage_error("--file", "follow_up_suggestions must be a list of strings")
    return Notes(
        coverage=shares,
        issues=[_parsed_issue(index, one) for index, one in enumerate(_part(content, "issues", list))],
        follow_up_suggestions=suggestions,
        summary=_part(content, "summary", str),
        extra=_part(content, "extra", dict),
    )


def _part(content: dict[str, Any], key: str, kind: type) -> Any:
    part = content.get(key)
    if part is None:
        return kind()
    if not isinstance(part, kind):
        name = {"dict": "an object", "list": "a list", "str": "a string"}[kind.__name__]
        raise usage_error("--file", f"{key} must be {name}")
    return part


def _parsed_issue(index: int, content: Any) -> "Issue":
    from session_notes import Issue, Severity

    where = f"issues[{index}]"
    if not isinstance(content, dict) or not isinstance(content.get("text"), str):
        raise usage_error("--file", f"{where} must be an object with a text")
    if unknown := sorted(content.keys() - {"text", "severity", "turn"}):
        raise usage_error("--file", f"unknown key {unknown[0]!r} in {where}; there are text, severity, turn")
    severity, turn = content.get("severity") or "unspecified", content.get("turn")
    if severity not in list(Severity):
        raise usage_error("--file", f"{where}.severity must be info, warning or critical")
    if turn is not None and (isinstance(turn, bool) or not isinstance(turn, int)):
        raise usage_error("--file", f"{where}.turn must be a whole number")
    return Issue(content["text"], Severity(severity), turn)
