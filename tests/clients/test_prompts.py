"""Notes as text for a model's prompt: within its limits, stable, and never mistaken for speech."""

import re
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_notes import (
    InvalidArgument,
    Issue,
    Notes,
    PrimaryClient,
    Readiness,
    Reading,
    Severity,
    StaleReason,
    Turn,
    TurnRecorder,
)
from session_notes._prompt import without_prompts

LONG = timedelta(seconds=30)

READING = Reading(
    "session", "default", True, Readiness.READY, Notes(summary="Goals are clear.", issues=[Issue("Late")]), fresh=True
)

PROMPT = READING.as_prompt()

# Text that tries to end the tag, or to begin another.
hostile = st.sampled_from(
    ['<session-notes observer="', "</session-notes>", "< / SESSION-notes >", "<", ">", '"', "\n", "&lt;"]
)
text = st.lists(hostile | st.text(), max_size=4).map("".join)
issues = st.lists(st.builds(Issue, text, st.sampled_from(Severity), st.none() | st.integers(0, 2**53)), max_size=5)
any_notes = st.builds(
    Notes,
    coverage=st.dictionaries(text, st.floats(0, 1), max_size=4),
    issues=issues,
    follow_up_suggestions=st.lists(text, max_size=4),
    summary=text,
)
readings = st.builds(
    replace,
    st.just(READING),
    observer=st.text(st.characters(min_codepoint=33, max_codepoint=122), min_size=1, max_size=40),
    notes=any_notes,
    fresh=st.booleans(),
    stale_because=st.lists(st.sampled_from(StaleReason), max_size=3).map(tuple),
)


@given(reading=readings, severity=st.none() | st.sampled_from(Severity), max_chars=st.integers(0, 600))
def test_any_notes_become_one_well_formed_tag(reading: Reading, severity: Severity | None, max_chars: int) -> None:
    """The text of any notes is within its limit, and is nothing or exactly one tag, which a recorder removes."""
    prompt = reading.as_prompt(min_severity=severity, max_chars=max_chars)
    assert len(prompt) <= max_chars
    if prompt:
        assert re.fullmatch(
            r'<session-notes observer="[^"<>]+" fresh="(true|false)">\n[^<>]+\n</session-notes>', prompt
        )
        assert without_prompts(f"before {prompt} after") == "before  after"
        assert without_prompts(prompt) == ""


def test_time_does_not_change_the_text() -> None:
    """The text stays the same while the notes age within their bounds, so that a prompt cache stays valid."""
    older = replace(READING, age=timedelta(hours=1), snapshot_age=timedelta(hours=2), turns_behind=40)
    assert older.as_prompt() == READING.as_prompt()
    stale = replace(READING, fresh=False, stale_because=(StaleReason.TURNS_BEHIND,))
    assert stale.as_prompt() != READING.as_prompt()
    # Once the conversation has moved on, the passing of time says nothing new.
    later = replace(stale, stale_because=(StaleReason.AGE, StaleReason.TURNS_BEHIND))
    assert later.as_prompt() == stale.as_prompt()


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"max_chars": -1}, "max_chars"),
        ({"max_chars": 10.5}, "max_chars"),
        ({"max_chars": True}, "max_chars"),
        ({"min_severity": "urgent"}, "min_severity"),
    ],
)
def test_an_invalid_option_is_named(options: dict[str, Any], argument: str) -> None:
    """An invalid option raises an error that names it, even while there are no notes."""
    with pytest.raises(InvalidArgument, match=argument):
        Reading.unavailable("session", "", "away").as_prompt(**options)


def test_a_severity_may_be_a_string() -> None:
    """`min_severity` accepts a severity's name, like `Issue`."""
    options: Any = {"min_severity": "warning"}
    assert "Late" not in READING.as_prompt(**options)


def test_notes_are_not_recorded_as_speech(primary: PrimaryClient, session_id: str) -> None:
    """A recorder removes prompts from what it records. Turns that are nothing else are left out and not observed."""
    submitted: list[str] = []

    class Observer:
        def submit(self, session_id: str) -> None:
            submitted.append(session_id)

    observer: Any = Observer()
    with TurnRecorder(primary, observer) as recorder:
        recorder.record(session_id, Turn("system", PROMPT), Turn("user", f"{PROMPT}\n"))
        assert recorder.turns(session_id) is None
        recorder.record(session_id, Turn("user", f"{PROMPT}\n\nWhen?", extra={"id": 1}), Turn("primary", " In May. "))
        assert recorder.close(LONG)
    stored = primary.get_session(session_id, include_turns=True).turns
    assert stored == (Turn("user", "When?", extra={"id": 1}), Turn("primary", " In May. "))
    assert submitted == [session_id]
