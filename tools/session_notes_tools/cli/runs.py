"""`session-notes runs begin`, `runs fail` and `runs list`."""

from datetime import timedelta

from session_notes_tools.cli.help import Group
from session_notes_tools.cli.options import (
    common_options,
    is_known,
    observer_option,
    observing,
    primary,
    session_argument,
)
from session_notes_tools.cli.parameters import argument, option, span_option

app = Group("runs", help="Begin, fail and list the runs of an observer.")


@app.command(
    epilog="Examples:\n  session-notes runs begin s1 --lease 2m --transcript\n"
    "  RUN=$(session-notes runs begin s1 --json | jq -r .run.run_id)"
)
@session_argument
@option("--run-id", metavar="RUN", help="The run's id, for a retry to find it.", show_default="a new one")
@option(
    "--observed-turn",
    type=int,
    metavar="N",
    help="How many turns the run is going to see.",
    show_default="all there are",
)
@span_option("--lease", help="How long it may take before it counts as abandoned: 90s, 15m.", show_default="5m")
@option(
    "--only-if-idle", is_flag=True, help="Begin only if no other run of this observer is at work, else exit with 5."
)
@option("--transcript", is_flag=True, help="Show the transcript it is to look at.")
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
    """Announce a run: it gets its number, and what it sees is fixed now.

    End it with `notes write --run-id` or `runs fail`. The same run id again finds the run that was begun.
    """
    from session_notes_tools.cli import documents, views

    with observing(target, timeout, observer) as client:
        run, turns = client.begin_run(
            session_id,
            run_id=run_id,
            observed_turn=observed_turn,
            lease=lease,
            only_if_idle=only_if_idle,
            include_transcript=transcript,
        )
    if as_json:
        transcript_ = [documents.turn(turn) for turn in turns]
        documents.write({"session_id": session_id, "run": documents.run(run), "transcript": transcript_})
        return
    views.show_run(run)
    if turns:
        views.show_turns(turns, last=max(run.observed_turn or 0, len(turns)))


@app.command(epilog="Example: session-notes runs fail s1 r1 --reason 'the model did not answer'")
@session_argument
@argument("run_id", metavar="RUN", help="The run's id.")
@option("--reason", metavar="TEXT", help="Why, for people: others can read it.", default="")
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
    """Record that a run ended without notes, and why.

    Exits with 6 where there is no such run, with 5 where it has written notes. Failing twice is as once.
    """
    from session_notes_tools.cli import documents, views

    with observing(target, timeout, observer) as client:
        run = client.fail_run(session_id, run_id, reason)
    if as_json:
        documents.write({"session_id": session_id, "run": documents.run(run)})
    else:
        views.show_run(run)


@app.command("list", epilog="Example: session-notes runs list s1 --notes")
@session_argument
@option("--notes", is_flag=True, help="Show each run's notes, superseded ones too.")
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
    """Show the last 20 runs, newest first."""
    from session_notes_tools.cli import documents, output, phrases, views

    with observing(target, timeout, observer) as client:
        runs = list(client.list_runs(session_id, include_notes=notes))
    if as_json:
        documents.write([documents.run(run) for run in runs])
    elif runs:
        views.show_runs(runs, notes=notes)
    else:
        with primary(target, timeout) as reader:
            known = is_known(reader, session_id)
        output.echo(output.id_line(f"no run on {session_id}{'' if known else f': {phrases.UNKNOWN_SESSION}'}"))
