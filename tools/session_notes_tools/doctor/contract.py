"""Comparison of the sidecar's contract with this version's."""

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

FEATURES = {
    "AppendTurnsRequest.append_id": "appends once per id",
    "BeginRunRequest.after_turn": "windows of the transcript",
    "BeginRunRequest.include_current_notes": "notes at BeginRun",
    "SessionNotes.RenewRun": "renewed leases",
    "SessionNotes.ListDueSessions": "due sessions and sweeps",
    "GetNotesRequest.max_snapshot_age": "bounds on the snapshot's age",
    "GetNotesResponse.stale_because": "reasons of stale notes",
}
"""Features that the contract's first version did not have, and an RPC or a field by which a sidecar shows each."""


def check_contract(channel: grpc.Channel, metadata: Metadata, seconds: float) -> Finding:
    """Compare the sidecar's RPCs, fields and enum values with this version's, since no RPC returns a version."""
    this_version = f"this is session-notes {version('session-notes')}"
    requests = [reflection_pb2.ServerReflectionRequest(file_by_filename=module.DESCRIPTOR.name) for module in CONTRACT]
    try:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        responses = list(stub.ServerReflectionInfo(iter(requests), timeout=seconds, metadata=metadata))
        offered = _elements(
            FileDescriptorProto.FromString(file)
            for response in responses
            for file in response.file_descriptor_response.file_descriptor_proto
        )
    except (grpc.RpcError, DecodeError):
        return skipped("contract", f"{this_version}; the sidecar does not describe its services")
    if missing := sorted(_EXPECTED - offered):
        features = ", ".join(FEATURES[name] for name in FEATURES if name in missing)
        return warning(
            "contract",
            f"{this_version}; the sidecar is older, and lacks {features or _first_names(missing)}",
            "update the sidecar before its clients",
        )
    if extra := sorted(offered - _EXPECTED):
        return warning(
            "contract",
            f"{this_version}; the sidecar is newer, and has {_first_names(extra)} too",
            "update this package if you need them",
        )
    return ok("contract", f"{this_version}; the sidecar has the same contract")


def _descriptor(module: Any) -> FileDescriptorProto:
    descriptor = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(descriptor)
    return descriptor


def _elements(files: Iterable[FileDescriptorProto]) -> set[str]:
    """Return the names of all RPCs, fields and enum values in the files of this project."""
    names: set[str] = set()
    for file in files:
        if not file.package.startswith("session_notes."):
            continue
        names |= {f"{service.name}.{method.name}" for service in file.service for method in service.method}
        names |= {f"{message.name}.{field.name}" for message in file.message_type for field in message.field}
        names |= {value.name for enum in file.enum_type for value in enum.value}
    return names


def _first_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


_EXPECTED = _elements(_descriptor(module) for module in CONTRACT)

if unknown := FEATURES.keys() - _EXPECTED:
    raise RuntimeError(f"FEATURES names what the contract does not have: {sorted(unknown)}")
