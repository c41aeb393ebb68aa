"""Readings: typed, immutable, and ready for a model."""

import json
from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta

import pytest
from session_notes import (
    Issue,
    Notes,
    ObserverClient,
    PrimaryClient,
    Readiness,
    Reading,
    RunState,
    Severity,
    StaleReason,
    Turn,
    WriteOutcome,
)

from tests.support import new_session_id

NOTES = Notes(
    coverage={"goals": 1.0, "budget": 0.25},
    issues=(Issue("Scope and deadline do not fit", Severity.CRITICAL, turn=2), Issue("No owner")),
    follow_up_suggestions=("Who decides?", "By when?"),
    summary="Goals are clear, money is not.",
    extra={"model": "small", "scores": [1.0, 0.5], "flags": {"late": True, "why": None}},
)


def test_a_session_without_data_is_not_ready(primary: PrimaryClient, session_id: str) -> None:
    """A session without data is a reading that is not ready and has its reason, never an error."""
    reading = primary.get_notes(session_id, max_age=timedelta(minutes=1), current_turn=3)
    assert (reading.ready, reading.readiness, reading.fresh) == (False, Readiness.NEVER_RUN, False)
    assert (reading.notes, reading.age, reading.run, reading.latest_run) == (None, None, None, None)
    assert (reading.session_id, reading.observer) == (session_id, "default")
    assert reading.as_tool_result() == {"ready": False, "reason": "never_run"}


def test_notes_are_read_as_written(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """A reading has the notes, their run, their age, and the drift."""
    primary.append_turns(session_id, [Turn("user", "a"), Turn("primary", "b")])
    with observer.run(session_id) as run:
        run.write(NOTES, ttl=timedelta(minutes=5))
    primary.append_turns(session_id, [Turn("user", "c")])
    reading = primary.get_notes(session_id)
    assert reading.notes == NOTES
    assert reading.ready
    assert reading.readiness is Readiness.READY
    assert (reading.observed_turn, reading.turns_behind) == (2, 1)
    assert reading.age is not None
    assert reading.snapshot_age is not None
    assert reading.write_time is not None
    assert reading.expires_in is not None
    assert timedelta() <= reading.age <= reading.snapshot_age < timedelta(minutes=1)
    assert timedelta(minutes=4) < reading.expires_in <= timedelta(minutes=5)
    assert reading.write_time.tzinfo is UTC
    assert reading.run == reading.latest_run
    assert reading.run is not None
    assert (reading.run.run_id, reading.run.number, reading.run.state) == (run.run_id, 1, RunState.WRITTEN)


def test_notes_of_lists_equal_notes_of_tuples() -> None:
    """Notes created with lists equal those that are read, and do not change with the caller's lists."""
    suggestions = ["Who decides?"]
    notes = Notes(issues=[Issue("late")], follow_up_suggestions=suggestions)
    suggestions.append("By when?")
    assert notes == Notes(issues=(Issue("late"),), follow_up_suggestions=("Who decides?",))


def test_a_reading_cannot_be_changed(primary: PrimaryClient, session_id: str) -> None:
    """A reading cannot be changed, and a misspelt attribute is an error."""
    reading = primary.get_notes(session_id)
    with pytest.raises(FrozenInstanceError):
        reading.ready = True  # type: ignore[misc]
    assert not hasattr(reading, "__dict__")


def test_the_callers_bounds_decide_fresh(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """Notes that do not meet the bounds are returned nevertheless, and are not fresh."""
    observer.write_notes(session_id, Notes(summary="x"), observed_turn=4)
    fresh = primary.get_notes(session_id, current_turn=6, max_turns_behind=2, max_age=timedelta(minutes=1))
    stale = primary.get_notes(session_id, current_turn=7, max_turns_behind=2)
    assert (fresh.fresh, fresh.turns_behind) == (True, 2)
    assert (stale.fresh, stale.turns_behind, stale.ready) == (False, 3, True)
    assert not primary.get_notes(session_id, max_age=timedelta()).fresh


def test_fresh_speaks_of_the_snapshot_too(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """Notes just written may rest on an old snapshot, or on none. Neither meets a bound, on any sidecar."""
    observer.write_notes(session_id, Notes(summary="x"))
    (batch,) = primary.batch_get_notes([session_id], max_snapshot_age=timedelta(hours=1))
    for reading in (batch, primary.get_notes(session_id, max_snapshot_age=timedelta(hours=1))):
        assert (reading.ready, reading.fresh) == (True, False)
        assert reading.stale_because == (StaleReason.SNAPSHOT_UNKNOWN,)
    with observer.run(session_id) as run:
        run.write(Notes(summary="y"))
    assert primary.get_notes(session_id, max_snapshot_age=timedelta(hours=1)).fresh
    reading = primary.get_notes(session_id, max_snapshot_age=timedelta())
    assert (reading.fresh, reading.stale_because) == (False, (StaleReason.SNAPSHOT_AGE,))
    assert reading.as_tool_result()["stale_because"] == ["snapshot_age"]


def test_a_tool_result_is_compact_json(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """The tool result of a ready reading has the notes and their age, as plain JSON without empty or unknown parts."""
    with observer.run(session_id, observed_turn=3) as run:
        run.write(Notes(issues=(Issue("No owner"), Issue("Late", Severity.WARNING, 0)), summary="So far."))
    result = primary.get_notes(session_id, current_turn=5).as_tool_result()
    assert json.loads(json.dumps(result)) == result
    age, snapshot_age = result.pop("age_seconds"), result.pop("snapshot_age_seconds")
    assert 0 <= age <= snapshot_age < 60
    assert result == {
        "ready": True,
        "turns_behind": 2,
        "fresh": True,
        "notes": {
            "issues": [{"text": "No owner"}, {"text": "Late", "severity": "warning", "turn": 0}],
            "summary": "So far.",
        },
    }
    observer.write_notes(session_id, NOTES, observed_turn=3)
    result = primary.get_notes(session_id).as_tool_result()
    assert json.loads(json.dumps(result)) == result
    assert set(result["notes"]) == {"coverage", "issues", "follow_up_suggestions", "summary", "extra"}
    assert "turns_behind" not in result, "the current turn is unknown"
    assert "snapshot_age_seconds" not in result, "the run was written without BeginRun"


def test_a_severity_may_be_passed_as_text() -> None:
    """The text of a severity is accepted, also by type checkers, and an issue has the severity."""
    issue = Issue("Late", "warning", turn=3)
    assert issue.severity is Severity.WARNING
    assert issue == Issue("Late", Severity.WARNING, 3)


@pytest.mark.parametrize(("fails", "state"), [(False, "running"), (True, "failed")])
def test_a_tool_result_has_the_state_of_a_newer_run(
    primary: PrimaryClient, observer: ObserverClient, session_id: str, fails: bool, state: str
) -> None:
    """While a newer run is in flight or has failed, the result has the notes and that run's state, not its failure."""
    observer.write_notes(session_id, Notes(summary="x"))
    assert "newer_run" not in primary.get_notes(session_id).as_tool_result()
    begun = observer.begin_run(session_id)
    if fails:
        observer.fail_run(session_id, begun.run.run_id, "model overloaded")
    result = primary.get_notes(session_id).as_tool_result()
    assert result["newer_run"] == state
    assert "overloaded" not in json.dumps(result)


def test_a_tool_result_without_notes_has_the_reason(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The tool result of a reading that is not ready has the reason and nothing else."""
    begun = observer.begin_run(session_id)
    assert primary.get_notes(session_id).as_tool_result() == {"ready": False, "reason": "running"}
    observer.fail_run(session_id, begun.run.run_id, "model overloaded")
    assert primary.get_notes(session_id).as_tool_result() == {"ready": False, "reason": "failed"}


def test_a_batch_is_in_order(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """A batch returns one reading per session, in the given order."""
    other = new_session_id()
    observer.write_notes(session_id, Notes(summary="x"))
    readings = primary.batch_get_notes(iter([other, session_id, other]), max_age=timedelta(minutes=1))
    assert [(reading.session_id, reading.fresh) for reading in readings] == [
        (other, False),
        (session_id, True),
        (other, False),
    ]
    assert primary.batch_get_notes([]) == []


def test_observers_are_separate(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """Notes belong to their observer."""
    observer.write_notes(session_id, Notes(summary="x"))
    reading = primary.get_notes(session_id, observer="tone")
    assert (reading.readiness, reading.observer) == (Readiness.NEVER_RUN, "tone")


def test_a_session_is_read_completely(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """One read returns fields, version, turns and every observer's notes. A session without data is empty."""
    empty = primary.get_session(session_id, include_turns=True)
    assert (empty.session_id, empty.version, empty.turn_count, empty.turns) == (session_id, 0, 0, ())
    assert (empty.fields, empty.notes, empty.create_time, empty.expires_in) == ({}, {}, None, None)

    time_spoken = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    turns = (Turn("user", "Hello", time_spoken, {"channel": "phone"}), Turn("primary", ""))
    assert primary.append_turns(session_id, turns) == 2
    fields = {"language": "en", "goals": ["a", {"b": None}], "score": 3, "done": False, "nothing": None}
    update = primary.update_session(session_id, fields, ttl=timedelta(hours=1))
    observer.write_notes(session_id, Notes(summary="x"))
    session = primary.get_session(session_id, include_turns=True)
    assert session.fields == fields
    assert type(session.fields["score"]) is int, "an integer is read as an int"
    assert (session.version, session.turn_count, session.turns) == (update.version, 2, turns)
    assert session.notes["default"].notes == Notes(summary="x")
    assert session.notes["default"].session_id == session_id
    assert session.update_time is not None
    assert session.update_time >= update.update_time
    assert session.expires_in is not None
    assert timedelta(minutes=59) < session.expires_in <= timedelta(hours=1)
    assert primary.get_session(session_id).turns == ()


def test_a_long_transcript_is_read_completely(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """A transcript may exceed gRPC's default limit for a message, and the limit of a request."""
    turns = tuple(Turn("user", f"{number} " + "x" * 60_000) for number in range(100))
    for start in range(0, 100, 50):
        primary.append_turns(session_id, turns[start : start + 50])
    assert primary.get_session(session_id, include_turns=True).turns == turns
    assert observer.begin_run(session_id).transcript == turns


def test_state_changes(primary: PrimaryClient, session_id: str) -> None:
    """Fields are set and removed separately, and a deleted session is gone."""
    assert primary.update_session(session_id, {"a": 1, "b": 2}).version == 1
    assert primary.update_session(session_id, {"c": 3}, remove=["a", "never"], expected_version=1).version == 2
    assert primary.get_session(session_id).fields == {"b": 2, "c": 3}
    assert primary.append_turns(session_id, [Turn("user", "x")], expected_turn_count=0) == 1
    assert primary.delete_session(session_id) is True
    assert primary.delete_session(session_id) is False
    assert primary.get_session(session_id).version == 0


def test_listings_follow_their_pages(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """A listing is complete with pages of any size."""
    for number in range(5):
        observer.write_notes(session_id, Notes(summary=str(number)))
    runs = list(observer.list_runs(session_id, page_size=2, include_notes=True))
    assert [(run.number, run.notes and run.notes.summary) for run in runs] == [(n, str(n - 1)) for n in range(5, 0, -1)]
    assert [run.notes for run in observer.list_runs(session_id)] == [None] * 5

    others = {new_session_id() for _ in range(4)}
    for other in others:
        primary.update_session(other, {"a": 1})
    summaries = {summary.session_id: summary for summary in primary.list_sessions(page_size=1)}
    assert others <= set(summaries)
    assert summaries[session_id].observers == ("default",)


def test_the_outcome_of_a_write(observer: ObserverClient, session_id: str) -> None:
    """A write returns whether its notes are current. A superseded one is not an error."""
    old, new = observer.begin_run(session_id).run, observer.begin_run(session_id).run
    first = observer.write_notes(session_id, Notes(summary="new"), run_id=new.run_id)
    again = observer.write_notes(session_id, Notes(summary="new"), run_id=new.run_id)
    late = observer.write_notes(session_id, Notes(summary="old"), run_id=old.run_id)
    assert first.outcome is WriteOutcome.ACCEPTED
    assert (again.outcome, again.write_time) == (WriteOutcome.DUPLICATE, first.write_time)
    assert (late.outcome, late.run.state) == (WriteOutcome.SUPERSEDED, RunState.SUPERSEDED)
    assert first.write_time.tzinfo is UTC


def test_enum_values_of_a_newer_sidecar_are_unspecified() -> None:
    """An enum value that this version of the client does not know is read as unspecified."""
    from session_notes.v1.notes_pb2 import Issue as IssueMessage
    from session_notes.v1.notes_pb2 import Notes as NotesMessage
    from session_notes.v1.notes_pb2 import Run as RunMessage
    from session_notes.v1.session_notes_pb2 import GetNotesResponse

    message = GetNotesResponse(
        readiness=99,  # type: ignore[arg-type]
        notes=NotesMessage(issues=[IssueMessage(severity=99)]),  # type: ignore[arg-type]
        run=RunMessage(state=99),  # type: ignore[arg-type]
    )
    reading = Reading.from_message(GetNotesResponse.FromString(message.SerializeToString()), session_id="s")
    assert reading.readiness is Readiness.UNSPECIFIED
    assert reading.as_tool_result() == {"ready": False, "reason": "unspecified"}
    assert reading.run is not None
    assert reading.run.state is RunState.UNSPECIFIED
    assert reading.notes is not None
    assert reading.notes.issues[0].severity is Severity.UNSPECIFIED


def test_type_checkers_distinguish_notes_from_none(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The documented access to notes needs no cast: `make check` checks this file with mypy --strict."""
    observer.write_notes(session_id, Notes(summary="Goals are clear."))
    reading = primary.get_notes(session_id, timeout=timedelta(seconds=5))
    summary: str = reading.notes.summary if reading.notes else ""
    assert summary == "Goals are clear."
    advice = reading.notes if reading.fresh else None
    assert advice
    assert advice.summary == summary
