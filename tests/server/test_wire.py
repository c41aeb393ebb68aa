"""Answers that take stored bytes are, on the raw_messages, what the contract's own messages are."""

from typing import Any

import pytest
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.rpc import raw_messages

NOTES = Notes(coverage={"a": 0.5, "b": 1}, summary="ü", follow_up_suggestions=["x", ""])


@pytest.mark.parametrize("notes", [NOTES, Notes()])
def test_notes_are_handed_on_as_they_are(notes: Notes) -> None:
    """Also those in which nothing is said are there."""
    response = raw_messages.BatchAnswer()
    one: Any = response.add(notes.SerializeToString())  # To the type checker its notes are a message.
    one.ready, one.run.run_id = True, "r"
    one.notes = b""
    read = session_notes_pb2.BatchGetNotesResponse.FromString(response.SerializeToString()).responses[0]
    assert read.HasField("notes")
    assert read.notes == notes
    assert (read.ready, read.run.run_id) == (True, "r")


def test_turns_are_handed_on_as_they_are() -> None:
    """Each of them, in order, beside what is no bytes."""
    turns = [Turn(speaker="user", text="a"), Turn(), Turn(speaker="primary")]
    response: Any = raw_messages.GetSessionResponse()
    response.session.turns.extend(turn.SerializeToString() for turn in turns)
    response.session.fields["f"].string_value = "v"
    read = session_state_pb2.GetSessionResponse.FromString(response.SerializeToString()).session
    assert list(read.turns) == turns
    assert read.fields["f"].string_value == "v"


def test_every_field_is_the_contracts() -> None:
    """Same names, same numbers, same kinds; a message is bytes where AS_BYTES says so, and nowhere else."""
    for name in raw_messages.__all__:
        ours = getattr(raw_messages, name).DESCRIPTOR
        theirs = ours.file.pool.FindMessageTypeByName(ours.full_name)
        contract = session_notes_pb2.DESCRIPTOR.pool.FindMessageTypeByName(ours.full_name)
        assert theirs is ours
        for field in contract.fields:
            mine = ours.fields_by_name[field.name]
            assert (mine.number, mine.is_repeated) == (field.number, field.is_repeated)
            as_bytes = raw_messages.AS_BYTES.get(name) == field.name
            assert mine.type == (mine.TYPE_BYTES if as_bytes else field.type)
