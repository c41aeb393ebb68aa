"""Response messages whose notes and turns stay serialized, as they are stored.

On the wire, message fields and bytes fields are encoded identically. These classes are the contract's, except that a
few fields take bytes. Parsing and serializing 2 KB of notes would cost as much as the rest of the response, and a
transcript of 2,000 turns several milliseconds. Stored messages were validated when they were written.
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

BYTES_FIELDS = {
    "GetNotesResponse": "notes",
    "BeginRunResponse": "transcript",
    "Run": "notes",
    "Session": "turns",
}
"""The fields that take bytes, by message."""


def _add(file: FileDescriptor, pool: DescriptorPool, added: set[str]) -> None:
    """Add a file and its dependencies to a pool, with the fields of BYTES_FIELDS as bytes."""
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(dependency, pool, added)
    copy = FileDescriptorProto()
    file.CopyToProto(copy)
    for message in copy.message_type:
        for field in message.field:
            if BYTES_FIELDS.get(message.name) == field.name and copy.package == "session_notes.v1":
                field.type = FieldDescriptorProto.TYPE_BYTES
                field.ClearField("type_name")
                if field.label == FieldDescriptorProto.LABEL_OPTIONAL:
                    # Even an empty message is present.
                    field.proto3_optional = True
                    field.oneof_index = len(message.oneof_decl)
                    message.oneof_decl.add(name=f"_{field.name}")
    pool.Add(copy)


_pool, _added = DescriptorPool(), set[str]()
for _file in FILES:
    _add(_file, _pool, _added)


def _class(name: str) -> Any:
    return GetMessageClass(_pool.FindMessageTypeByName(f"session_notes.v1.{name}"))


def _varint(value: int) -> bytes:
    if value < 1 << 7:
        return bytes((value,))
    if value < 1 << 14:  # Most notes.
        return bytes((value & 0x7F | 0x80, value >> 7))
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tag(message: type[Message], field: str) -> bytes:
    """Return the tag of a length-delimited field on the wire."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


class BatchResponse:
    """A BatchGetNotesResponse: up to 64 MiB of notes, copied once from the store to the wire.

    Attributes:
        responses: The responses, without their notes.
    """

    _RESPONSES = _tag(session_notes_pb2.BatchGetNotesResponse, "responses")
    _NOTES = _tag(session_notes_pb2.GetNotesResponse, "notes")

    def __init__(self) -> None:
        self.responses: list[GetNotesResponse] = []
        self._notes: list[bytes | None] = []

    def add(self, notes: bytes | None) -> GetNotesResponse:
        """Append a response and return it. The caller fills in everything but the notes."""
        self._notes.append(notes)
        self.responses.append(GetNotesResponse())
        return self.responses[-1]

    def SerializeToString(self) -> bytes:
        """Serialize the message. The notes of each response follow its other fields.

        Each field occurs once. Not every decoder merges two occurrences of a message: JSON transcoders refuse them.
        """
        parts = list[bytes]()
        for response, notes in zip(self.responses, self._notes, strict=True):
            head = response.SerializeToString()
            field = b"" if notes is None else self._NOTES + _varint(len(notes))
            size = len(head) + len(field) + len(notes or b"")
            parts += (self._RESPONSES, _varint(size), head, field, notes or b"")
        return b"".join(parts)


if TYPE_CHECKING:
    # The type checker sees the contract's classes. Only `conversion`, which fills them, passes bytes.
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
