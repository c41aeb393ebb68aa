"""gRPC's channelz: what this process knows of its own connections, sockets and calls. It needs grpcio-channelz."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz, channelz_pb2

from session_notes_server.rpc import errors

log = logging.getLogger(__name__)


def service() -> ServiceDescriptor:
    """The service, for those who make handlers and reflection of it."""
    found: ServiceDescriptor = channelz_pb2.DESCRIPTOR.services_by_name["Channelz"]
    return found


class ChannelzServicer:
    """The package's own servicer, which would give callers the text of exceptions."""

    def __getattr__(self, name: str) -> Callable[[Any, Any], Awaitable[Message]]:
        ask = getattr(channelz.ChannelzServicer, name)

        async def answer(request: Message, _: object) -> Message:
            said = _Said()
            response: Message | None = ask(request, said)
            if said.code is grpc.StatusCode.NOT_FOUND:
                raise errors.invalid_fields([(request.DESCRIPTOR.fields[0].name, "is nothing of this process")])
            if response is None:
                log.error("grpcio and grpcio-channelz do not fit each other: install the same version of both")
                raise RuntimeError("gRPC has told what the package does not know")
            return response

        return answer


class _Said:
    """What the servicer says of an error, in place of a call."""

    code: grpc.StatusCode | None = None

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, _: str) -> None:
        pass
