"""gRPC's channelz: the connections, sockets and calls of this process. Requires grpcio-channelz."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_channelz.v1 import channelz

from session_notes_server.rpc import errors

log = logging.getLogger(__name__)


class ChannelzServicer:
    """grpcio-channelz's servicer, without its error messages, which contain the text of exceptions."""

    def __getattr__(self, name: str) -> Callable[[Any, Any], Awaitable[Message]]:
        method = getattr(channelz.ChannelzServicer, name)

        async def handle(request: Message, _: object) -> Message:
            status = _StatusRecorder()
            response: Message | None = method(request, status)
            if status.code is grpc.StatusCode.NOT_FOUND:
                raise errors.invalid_fields([(request.DESCRIPTOR.fields[0].name, "does not exist in this process")])
            if response is None:
                log.error("grpcio and grpcio-channelz do not match: install the same version of both")
                raise RuntimeError("grpcio-channelz cannot parse the response of grpcio")
            return response

        return handle


class _StatusRecorder:
    """A stand-in for the call's context that records the status."""

    code: grpc.StatusCode | None = None

    def set_code(self, code: grpc.StatusCode) -> None:
        self.code = code

    def set_details(self, _: str) -> None:
        pass
