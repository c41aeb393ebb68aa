"""Server reflection, for callers that have a role."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.authorization import Authorization
from session_notes_server.rpc.errors import StatusError
from session_notes_server.telemetry.calls import Telemetry

SERVICE_NAME: str = reflection.SERVICE_NAME

_METHOD = f"{SERVICE_NAME}.ServerReflectionInfo"


class ReflectionServicer(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # grpc_reflection has no types
    """gRPC's servicer, with authorization, admission control and telemetry."""

    def __init__(
        self, authorization: Authorization, admission: Admission, service_names: list[str], telemetry: Telemetry
    ) -> None:
        super().__init__(service_names)
        self._authorization = authorization
        self._admission = admission
        self._telemetry = telemetry.method(_METHOD, traced=False)

    async def ServerReflectionInfo(
        self, request_iterator: AsyncIterable[Any], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[Any]:
        """Describe the services to a client such as grpcurl."""
        with self._telemetry.around(context):
            try:
                call = self._admission.admit(context)
                self._authorization.check(_METHOD, context)
            except StatusError as error:
                await context.abort(error.code, error.message, error.trailing_metadata())
            async for response in super().ServerReflectionInfo(request_iterator, context):
                call.sending()
                yield response
                call.sent()
            call.sending()
