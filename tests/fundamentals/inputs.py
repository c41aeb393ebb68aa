"""Valid requests of every RPC, for tests that break one field, and forged page tokens."""

import base64
from typing import Any

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.rpc import paging

_METHODS = {
    f"{service.name}/{method.name}": method
    for file in (session_notes_pb2, session_state_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}

_REQUIRED: dict[str, dict[str, Any]] = {
    "SessionNotes/WriteNotes": {"notes": Notes(summary="a summary")},
    "SessionNotes/FailRun": {"run_id": "begun"},
    "SessionNotes/RenewRun": {"run_id": "begun"},
    "SessionState/AppendTurns": {"turns": [Turn(text="a turn")]},
}

ALL_RPCS = sorted(_METHODS)


def fields_of(rpc: str) -> set[str]:
    """Return the field names of an RPC's request."""
    return {field.name for field in _METHODS[rpc].input_type.fields}


def request_of(rpc: str, session_id: str, /, **fields: Any) -> Message:
    """Return a valid request with `fields` replaced."""
    own = {"session_id": session_id} if "session_id" in fields_of(rpc) else {}
    return GetMessageClass(_METHODS[rpc].input_type)(**(own | _REQUIRED.get(rpc, {}) | fields))


def nested_struct(levels: int) -> Struct:
    """Return a Struct nested `levels` deep, itself included."""
    struct = Struct(fields={"leaf": Value(number_value=1)})
    for _ in range(levels - 1):
        struct = Struct(fields={"deeper": Value(struct_value=struct)})
    return struct


def nested_list(levels: int) -> Value:
    """Return a list Value nested `levels` deep, itself included."""
    value = Value(list_value=ListValue(values=[Value(number_value=1)]))
    for _ in range(levels - 1):
        value = Value(list_value=ListValue(values=[value]))
    return value


def forged(scope: tuple[str, ...], position: str) -> str:
    """Return a forged token with any position: the checksum is not a secret."""
    marked = base64.urlsafe_b64decode(paging.token(scope, None) + "===").decode().removesuffix("null]")
    return base64.urlsafe_b64encode(f"{marked}{position}]".encode()).decode().rstrip("=")
