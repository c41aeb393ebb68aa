"""Responses with raw bytes are identical to the contract's messages on the wire."""

from typing import Any

import pytest
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.rpc import raw_messages

NOTES = Notes(coverage={"a": 0.5, "b": 1}, summary="ü", follow_up_suggestions=["x", ""])


@pytest.mark.parametrize("notes", [NOTES, Notes()])
def test_stored_notes_are_unchanged_in_a_batch(notes: Notes) -> None:
    """A batch returns notes as they are stored, and each field once. Empty notes are present."""
    batch = raw_messages.BatchResponse()
    response: Any = batch.add(notes.SerializeToString())  # The type checker expects a message as notes.
    response.ready, response.run.run_id = True, "r"
    serialized = batch.SerializeToString()
    message = session_notes_pb2.BatchGetNotesResponse.FromString(serialized)
    assert message.ByteSize() == len(serialized)
    (parsed,) = message.responses
    assert parsed.HasField("notes")
    assert parsed.notes == notes
    assert (parsed.ready, parsed.run.run_id) == (True, "r")


def test_stored_turns_are_unchanged_in_a_session() -> None:
    """A session returns its turns as they are stored and in order, along with fields that are not raw."""
    turns = [Turn(speaker="user", text="a"), Turn(), Turn(speaker="primary")]
    response: Any = raw_messages.GetSessionResponse()
    response.session.turns.extend(turn.SerializeToString() for turn in turns)
    response.session.fields["f"].string_value = "v"
    parsed = session_state_pb2.GetSessionResponse.FromString(response.SerializeToString()).session
    assert list(parsed.turns) == turns
    assert parsed.fields["f"].string_value == "v"


def test_stored_notes_are_unchanged_in_a_begun_run() -> None:
    """The current notes in a BeginRunResponse are returned as they are stored, next to the stored turns."""
    response: Any = raw_messages.BeginRunResponse()
    response.transcript.append(Turn(text="a").SerializeToString())
    response.current.notes = NOTES.SerializeToString()
    parsed = session_notes_pb2.BeginRunResponse.FromString(response.SerializeToString())
    assert (parsed.current.notes, list(parsed.transcript)) == (NOTES, [Turn(text="a")])


def test_fields_are_those_of_the_contract() -> None:
    """Names, numbers and types are those of the contract, except that the fields in BYTES_FIELDS are bytes."""
    for name in raw_messages.__all__:
        raw = getattr(raw_messages, name).DESCRIPTOR
        contract = session_notes_pb2.DESCRIPTOR.pool.FindMessageTypeByName(raw.full_name)
        assert raw.file.pool.FindMessageTypeByName(raw.full_name) is raw
        for field in contract.fields:
            raw_field = raw.fields_by_name[field.name]
            assert (raw_field.number, raw_field.is_repeated) == (field.number, field.is_repeated)
            is_bytes = raw_messages.BYTES_FIELDS.get(name) == field.name
            assert raw_field.type == (raw_field.TYPE_BYTES if is_bytes else field.type)
