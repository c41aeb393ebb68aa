"""Server reflection, for callers that have a role.

grpcio-reflection has only v1alpha. Newer clients ask for v1, whose messages are the same on the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from session_notes_server.rpc import errors
from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.authorization import Authorization
from session_notes_server.telemetry.calls import Telemetry


def _describe_v1() -> None:
    """Add v1's descriptor to the pool, so that a client that lists the service can also describe it."""
    file = FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    v1 = text_format.Parse(text_format.MessageToString(file).replace("v1alpha", "v1"), FileDescriptorProto())
    descriptor_pool.Default().AddSerializedFile(v1.SerializeToString())


_describe_v1()


class ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # grpc_reflection has no types
    """The servicer of grpcio-reflection, with authorization, admission control and telemetry.

    Args:
        service: The full name of the reflection service, in one of its versions.
        authorization: Decides who may call it.
        admission: Admits its streams.
        service_names: The services to describe.
        telemetry: Counts its streams.
    """

    def __init__(
        self,
        service: str,
        authorization: Authorization,
        admission: Admission,
        service_names: list[str],
        telemetry: Telemetry,
    ) -> None:
        super().__init__(service_names)
        self._service = service
        self._method = f"{service}.ServerReflectionInfo"
        self._authorization = authorization
        self._admission = admission
        self._telemetry = telemetry.method(self._method, traced=False)

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the handler of the service."""
        method: Any = grpc.stream_stream_rpc_method_handler(
            self.ServerReflectionInfo,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(self._service, {"ServerReflectionInfo": method})

    async def ServerReflectionInfo(
        self, request_iterator: AsyncIterable[bytes], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Describe the services to a client such as grpcurl."""
        with self._telemetry.around(context):
            try:
                call = self._admission.admit(context)
                self._authorization.check(self._method, context)
                async for response in super().ServerReflectionInfo(_parsed(request_iterator), context):
                    call.sending()
                    yield response
                    call.sent()
            except errors.StatusError as error:
                await context.abort(error.code, error.message, error.trailing_metadata())
            call.sending()


async def _parsed(requests: AsyncIterable[bytes]) -> AsyncIterator[Any]:
    """Parse requests here, because grpc.aio would send the text of a usual deserializer's exception to the caller."""
    async for request in requests:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(request)
        except DecodeError:
            raise errors.malformed_message() from None
