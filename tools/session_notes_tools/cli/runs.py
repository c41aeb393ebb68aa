"""`session-notes runs begin`, `runs fail`, `runs list` and `runs due`."""

from datetime import timedelta

from session_notes_tools.cli.help import Group
from session_notes_tools.cli.options import (
    common_options,
    observer_client,
    observer_option,
    primary_client,
    session_argument,
    session_exists,
)
from session_notes_tools.cli.parameters import argument, option, span_option, span_or_zero

app = Group("runs", help="Begin, fail and list the runs of an observer, and find sessions that need one.")


@app.command(
    epilog="Examples:\n  session-notes runs begin s1 --lease 2m --transcript\n"
    "  RUN=$(session-notes runs begin s1 --json | jq -r .run.run_id)"
)
@session_argument
@option(
    "--run-id",
    metavar="RUN",
    help="The id of the run, which makes a retry safe.",
    show_default="a new id",
)
@option(
    "--observed-turn",
    type=int,
    metavar="N",
    help="The number of turns that the run sees.",
    show_default="all stored turns",
)
@span_option("--lease", help="The time after which the run counts as abandoned: 90s, 15m.", show_default="5m")
@option(
    "--only-if-idle",
    is_flag=True,
    help="Begin only if no other run of this observer is in flight; otherwise exit with 5.",
)
@option("--transcript", is_flag=True, help="Show the transcript that the run sees.")
@observer_option
@common_options
def begin(
    session_id: str,
    run_id: str | None,
    observed_turn: int | None,
    lease: timedelta | None,
    only_if_idle: bool,
    transcript: bool,
    observer: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Begin a run: issue its number and take its snapshot of the transcript.

    End the run with `notes write --run-id` or `runs fail`. Beginning again with the same run id returns the same run.
    """
    from session_notes_tools.cli import documents, views

    with observer_client(target, timeout, observer) as client:
        begun = client.begin_run(
            session_id,
            run_id=run_id,
            observed_turn=observed_turn,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=transcript,
        )
    run, turns = begun.run, begun.transcript
    if as_json:
        document = {"session_id": session_id, "run": documents.run(run), "transcript": [*map(documents.turn, turns)]}
        documents.write(document)
        return
    views.show_run(run)
    if turns:
        views.show_turns(turns, last=max(run.observed_turn or 0, len(turns)))


@app.command(epilog="Example: session-notes runs fail s1 r1 --reason 'the model did not answer'")
@session_argument
@argument("run_id", metavar="RUN", help="The id of the run.")
@option("--reason", metavar="TEXT", help="The reason in plain words, which other callers can read.", default="")
@observer_option
@common_options
def fail(
    session_id: str,
    run_id: str,
    reason: str,
    observer: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Record that a run ended without notes, and why. Idempotent.

    The exit code is 6 if the run is unknown, and 5 if it has already written notes.
    """
    from session_notes_tools.cli import documents, views

    with observer_client(target, timeout, observer) as client:
        run = client.fail_run(session_id, run_id, reason)
    if as_json:
        documents.write({"session_id": session_id, "run": documents.run(run)})
    else:
        views.show_run(run)


@app.command("list", epilog="Example: session-notes runs list s1 --notes")
@session_argument
@option("--notes", is_flag=True, help="Show the notes of each run, including superseded ones.")
@observer_option
@common_options
def list_(
    session_id: str,
    notes: bool,
    observer: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show the run history of an observer, newest first."""
    from session_notes_tools.cli import documents, output, phrases, views

    with observer_client(target, timeout, observer) as client:
        runs = list(client.list_runs(session_id, include_notes=notes))
    if as_json:
        documents.write([documents.run(run) for run in runs])
    elif runs:
        views.show_runs(runs, notes=notes)
    else:
        with primary_client(target, timeout) as reader:
            reason = "" if session_exists(reader, session_id) else f": {phrases.UNKNOWN_SESSION}"
        output.echo(output.id_line(f"no runs on {session_id}{reason}"))


@app.command(epilog="Example: session-notes runs due --min-quiet 2s --json | jq -r '.[].session_id'")
@option(
    "--min-turns-behind",
    type=int,
    metavar="N",
    help="The smallest number of turns that the current notes have not seen.",
    show_default="1",
)
@option(
    "--min-interval",
    type=span_or_zero,
    metavar="SPAN",
    help="The shortest time since the observer's latest run on a session began: 90s, 15m.",
    show_default="any",
)
@option(
    "--min-quiet",
    type=span_or_zero,
    metavar="SPAN",
    help="The shortest time since the last turn: 500ms, 2s.",
    show_default="any",
)
@observer_option
@common_options
def due(
    min_turns_behind: int | None,
    min_interval: timedelta | None,
    min_quiet: timedelta | None,
    observer: str,
    target: str,
    timeout: timedelta,
    as_json: bool,
) -> None:
    """Show the sessions on which an observer has work to do, the most turns behind first. This scans the whole store.

    These have new turns, and no run of this observer in flight.
    """
    from session_notes_tools.cli import documents, views

    with observer_client(target, timeout, observer) as client:
        sessions = list(
            client.due_sessions(min_turns_behind=min_turns_behind, min_interval=min_interval, min_quiet=min_quiet)
        )
    sessions.sort(key=lambda session: (-session.turns_behind, session.session_id))
    if as_json:
        documents.write([documents.due(session) for session in sessions])
    else:
        views.show_due(sessions)
