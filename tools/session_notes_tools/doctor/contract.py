"""Whether a sidecar and this version know the same contract."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from session_notes.v1 import error_reason_pb2, notes_pb2, session_notes_pb2, session_state_pb2, turn_pb2

from session_notes_tools.doctor.calls import Metadata
from session_notes_tools.doctor.findings import Finding, ok, skipped, warning

CONTRACT = (error_reason_pb2, notes_pb2, turn_pb2, session_notes_pb2, session_state_pb2)


def contract(channel: grpc.Channel, metadata: Metadata, seconds: float) -> Finding:
    """Compare what the sidecar can do with what this version knows: no RPC tells a version's number."""
    mine = f"this is {version('session-notes')}"
    files = [module.DESCRIPTOR.name for module in CONTRACT]
    requests = [reflection_pb2.ServerReflectionRequest(file_by_filename=name) for name in files]
    try:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = list(stub.ServerReflectionInfo(iter(requests), timeout=seconds, metadata=metadata))
        theirs = _parts(
            FileDescriptorProto.FromString(file)
            for answer in answers
            for file in answer.file_descriptor_response.file_descriptor_proto
        )
    except (grpc.RpcError, DecodeError):
        return skipped("contract", f"{mine}; the sidecar does not tell what it can do")
    ours = _parts(_described(module) for module in CONTRACT)
    if missing := sorted(ours - theirs):
        return warning(
            "contract",
            f"{mine}; the sidecar is older, and lacks {_some(missing)}",
            "update the sidecar before its clients",
        )
    if more := sorted(theirs - ours):
        return warning(
            "contract", f"{mine}; the sidecar is newer, and has {_some(more)} too", "update this, if you use it"
        )
    return ok("contract", f"{mine}; the sidecar can do all that it knows, and no more")


def _described(module: Any) -> FileDescriptorProto:
    described = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(described)
    return described


def _parts(files: Iterable[FileDescriptorProto]) -> set[str]:
    """The names of all RPCs, fields and values of enums in our own files."""
    found: set[str] = set()
    for file in files:
        if not file.package.startswith("session_notes."):
            continue
        found |= {f"{service.name}.{method.name}" for service in file.service for method in service.method}
        found |= {f"{message.name}.{field.name}" for message in file.message_type for field in message.field}
        found |= {value.name for enum in file.enum_type for value in enum.value}
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
