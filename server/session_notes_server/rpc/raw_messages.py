"""Answers in which what the store holds as serialized messages stays that: notes, turns.

The wire does not tell a message from its bytes, so these classes are the contract's, but for a few fields that take
bytes. To parse 2 KB of notes and to serialize them again would cost as much as all else that is done to an answer, and
a transcript of 2,000 turns some milliseconds. What is stored was checked when it was written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from session_notes.v1 import session_notes_pb2

from session_notes_server.contract import FILES

__all__ = [
    "BeginRunResponse",
    "GetNotesResponse",
    "GetSessionResponse",
    "ListRunsResponse",
]

AS_BYTES = {
    "GetNotesResponse": "notes",
    "BeginRunResponse": "transcript",
    "Run": "notes",
    "Session": "turns",
}


def _add(file: FileDescriptor, pool: DescriptorPool, known: set[str]) -> None:
    if file.name in known:
        return
    known.add(file.name)
    for needed in file.dependencies:
        _add(needed, pool, known)
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    for message in copy.message_type:
        for field in message.field:
            if AS_BYTES.get(message.name) == field.name and copy.package == "session_notes.v1":
                field.type = FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
                if field.label == FieldDescriptorProto.LABEL_OPTIONAL:
                    # An empty message is there, and so must its bytes be, which are none.
                    field.proto3_optional = True
                    field.oneof_index = len(message.oneof_decl)
                    message.oneof_decl.add(name=f"_{field.name}")
    pool.Add(copy)


_pool, _known = DescriptorPool(), set[str]()
for _file in FILES:
    _add(_file, _pool, _known)


def _class(name: str) -> Any:
    return GetMessageClass(_pool.FindMessageTypeByName(f"session_notes.v1.{name}"))


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(message: type[Message], field: str) -> bytes:
    """Return what stands before a field's length on the wire."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


class BatchAnswer:
    """BatchGetNotesResponse: up to 64 MiB of notes, which go from the store to the wire in one copy.

    Attributes:
        responses: The answers, with empty notes where there are notes.
    """

    _RESPONSES = _tag(session_notes_pb2.BatchGetNotesResponse, "responses")
    _NOTES = _tag(session_notes_pb2.GetNotesResponse, "notes")

    def __init__(self) -> None:
        self.responses: list[GetNotesResponse] = []
        self._notes: list[bytes | None] = []

    def add(self, notes: bytes | None) -> GetNotesResponse:
        """Return the next answer, to be filled with everything but its notes."""
        self._notes.append(notes)
        self.responses.append(GetNotesResponse())
        return self.responses[-1]

    def SerializeToString(self) -> bytes:
        """Return the message: each answer is followed by its notes, which a parser merges into the empty ones."""
        parts = list[bytes]()
        for response, notes in zip(self.responses, self._notes, strict=True):
            answer = response.SerializeToString()
            field = self._NOTES + _varint(len(notes)) if notes else b""
            size = len(answer) + len(field) + len(notes or b"")
            parts += (self._RESPONSES, _varint(size), answer, field, notes or b"")
        return b"".join(parts)


if TYPE_CHECKING:
    # To the type checker they are the contract's own. Only `translate`, which fills them, knows of AS_BYTES.
    from session_notes.v1.session_notes_pb2 import (
        BeginRunResponse,
        GetNotesResponse,
        ListRunsResponse,
    )
    from session_notes.v1.session_state_pb2 import GetSessionResponse
else:
    GetNotesResponse = _class("GetNotesResponse")
    BeginRunResponse, ListRunsResponse = _class("BeginRunResponse"), _class("ListRunsResponse")
    GetSessionResponse = _class("GetSessionResponse")
