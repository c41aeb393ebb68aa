"""The contract's services and defaults: the source of every table of services, methods or messages."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from google.protobuf.descriptor import FileDescriptor, ServiceDescriptor
from session_notes.v1 import session_notes_pb2, session_state_pb2

FILES: tuple[FileDescriptor, ...] = (session_notes_pb2.DESCRIPTOR, session_state_pb2.DESCRIPTOR)
"""The files that define a service."""

SERVICES: tuple[ServiceDescriptor, ...] = tuple(service for file in FILES for service in file.services_by_name.values())

REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""gRPC's reflection, in both versions."""

DEFAULT_OBSERVER = "default"
"""The observer of a request that names none."""

DEFAULT_LEASE = timedelta(minutes=5)
"""The lease of a run whose BeginRun or RenewRun names none."""

_ID = re.compile(r"[!-z|~]{1,256}")  # Printable ASCII without space, `{` and `}`.


def is_id(value: Any) -> bool:
    """Return whether a value is a valid id of a session, run or append, or a valid observer name."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None
