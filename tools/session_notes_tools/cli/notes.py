"""`session-notes notes get` and `notes write`."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from click.exceptions import Exit

from session_notes_tools.cli.exits import ExitCode
from session_notes_tools.cli.help import Group
from session_notes_tools.cli.notes_input import coverage_share, issue_fields, notes_from_document
from session_notes_tools.cli.options import (
    common_options,
    json_object,
    observer_client,
    observer_option,
    primary_client,
    read_text,
    session_argument,
    session_exists,
    usage_error,
)
from session_notes_tools.cli.parameters import option, path_option, span_option, span_or_zero

app = Group("notes", help="Read and write notes.")


@app.command(
    epilog="Examples:\n  session-notes notes get s1\n"
    "  session-notes notes get s1 --max-age 30s --max-turns-behind 2 --fresh --json\n"
    "  session-notes notes get s1 --prompt"
)
@session_argument
@observer_option
@span_option("--max-age", type=span_or_zero, help="The age up to which notes count as fresh: 30s, 5m.")
@option(
    "--current-turn",
    type=int,
    metavar="N",
    help="The number of turns in the conversation.",
    show_default="the number of stored turns",
)
@option(
    "--max-turns-behind",
    type=int,
    metavar="N",
    help="The drift up to which notes count as fresh, in turns.",
)
@option("--fresh", is_flag=True, help="Also exit with 3 if the notes are not fresh.")
@option("--prompt", is_flag=True, help="Print the notes as text for a model's prompt, and nothing if there are none.")
@common_options
def get(
    session_id: str,
    observer: str,
    max_age: timedelta | None,
    current_turn: int | None,
    max_turns_behind: int | None,
    fresh: bool,
    prompt: bool,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show the current notes with their age and the number of turns they are behind.

    The exit code is 3 if no notes are ready because none have been written yet, the run failed, or they have expired.
    """
    from session_notes import Readiness

    from session_notes_tools.cli import documents, output, views

    if prompt and as_json:
        raise usage_error("--prompt", "give --prompt or --json, not both")
    with primary_client(target, timeout) as client:
        reading = client.get_notes(
            session_id,
            observer=observer,
            max_age=max_age,
            current_turn=current_turn,
            max_turns_behind=max_turns_behind,
        )
        exists = as_json or prompt or reading.readiness is not Readiness.NEVER_RUN or session_exists(client, session_id)
    if as_json:
        documents.write(documents.reading(reading))
    elif prompt:
        if text := reading.as_prompt():
            output.echo(text)
    else:
        views.show_reading(reading, session_exists=exists, max_age=max_age, max_turns_behind=max_turns_behind)
    if not (reading.fresh if fresh else reading.ready):
        raise Exit(ExitCode.NOT_READY)


@app.command(
    epilog="Examples:\n"
    "  session-notes notes write s1 --summary 'Goals are clear.' \\\n"
    "    --coverage goals=1 --issue 'warning:No budget yet'\n"
    "  session-notes notes write s1 --file notes.json --run-id r1 --observed-turn 12"
)
@session_argument
@option("--summary", metavar="TEXT", help="A summary of the conversation so far.", default="")
@option(
    "--coverage",
    multiple=True,
    metavar="TOPIC=SHARE",
    help="The covered share of a topic, from 0 to 1. Repeatable.",
)
@option(
    "--issue",
    multiple=True,
    metavar="SEVERITY:TEXT",
    help="An issue to raise. The severity is info, warning or critical, and may be omitted. Repeatable.",
)
@option("--follow-up", multiple=True, metavar="TEXT", help="A suggestion for what to say or ask next. Repeatable.")
@option("--extra", metavar="JSON", help="Additional data, as a JSON object.")
@path_option(
    "--file",
    help="Read the notes from this file instead (- for stdin), in the format of `notes` in `notes get --json`.",
)
@option("--run-id", metavar="RUN", help="The run that wrote the notes.", show_default="a new run")
@option(
    "--observed-turn",
    type=int,
    metavar="N",
    help="The number of turns that the run saw.",
    show_default="the number given when it began",
)
@span_option("--ttl", help="The time until the notes expire: 90s, 15m, 24h.", show_default="when the session does")
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

    They become the current notes unless a newer run has already written notes. In that case they are stored in the
    history only, and the exit code is 5. Writing the same notes again for the same run has no effect.
    """
    from session_notes import WriteOutcome

    from session_notes_tools.cli import documents, output

    parts: dict[str, Any] = {
        "summary": summary,
        "coverage": dict(coverage_share(text) for text in coverage),
        "issues": [issue_fields(text) for text in issue],
        "follow_up_suggestions": list(follow_up),
        "extra": {} if extra is None else json_object("--extra", extra),
    }
    if file is not None and any(parts.values()):
        raise usage_error("--file", "give the notes in a file or in options, not both")
    if file is None and not any(parts.values()):
        raise usage_error(
            "nothing to write",
            "give --summary or another part of the notes, or a --file; for empty notes, a --file with {}",
        )
    notes = notes_from_document(parts if file is None else json_object("--file", read_text(file)))
    with observer_client(target, timeout, observer) as client:
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
            WriteOutcome.ACCEPTED: "these are now the current notes",
            WriteOutcome.DUPLICATE: "this run had already written the same notes; nothing changed",
            WriteOutcome.SUPERSEDED: "a newer run has already written notes; these are in the history only",
        }.get(result.outcome, "an outcome unknown to this version of session-notes; update it")
        output.echo(
            output.line((result.outcome.value, "bold"), f": {meaning}"),
            output.id_line((f"run {result.run.number} ({result.run.run_id}) of {result.run.observer}", "dim")),
        )
    if result.outcome is WriteOutcome.SUPERSEDED:
        raise Exit(ExitCode.REFUSED)
