"""grpc.testing.TestService, as described in grpc/doc/interop-test-descriptions.md."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from session_notes_server.rpc.engines import Engine

from tests.compliance.services import CODES, Context, Contract

INITIAL_METADATA, TRAILING_METADATA = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"


def add_to(engine: Engine, contract: Contract) -> None:
    """Register the service with an engine."""
    contract.add_to(engine, "grpc.testing.TestService", TestService(contract))


class TestService:
    """The methods that the interop client calls, except the unimplemented one."""

    def __init__(self, contract: Contract) -> None:
        self._payload = contract.message("grpc.testing.Payload")
        self._unary_response = contract.message("grpc.testing.SimpleResponse")
        self._input_response = contract.message("grpc.testing.StreamingInputCallResponse")
        self._output_response = contract.message("grpc.testing.StreamingOutputCallResponse")

    async def EmptyCall(self, request: Any, _: Context) -> Any:
        return request

    async def UnaryCall(self, request: Any, context: Context) -> Any:
        await _echo_metadata(context)
        await _echo_status(request, context)
        return self._unary_response(payload=self._payload(body=bytes(request.response_size)))

    async def StreamingOutputCall(self, request: Any, _: Context) -> AsyncIterator[Any]:
        for parameters in request.response_parameters:
            yield await self._output(parameters)

    async def StreamingInputCall(self, requests: AsyncIterator[Any], _: Context) -> Any:
        return self._input_response(aggregated_payload_size=sum([len(one.payload.body) async for one in requests]))

    async def FullDuplexCall(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        await _echo_metadata(context)
        async for request in requests:
            await _echo_status(request, context)
            for parameters in request.response_parameters:
                yield await self._output(parameters)

    async def _output(self, parameters: Any) -> Any:
        await asyncio.sleep(parameters.interval_us / 1e6)
        return self._output_response(payload=self._payload(body=bytes(parameters.size)))


async def _echo_metadata(context: Context) -> None:
    metadata = dict(context.invocation_metadata() or ())
    if INITIAL_METADATA in metadata:
        await context.send_initial_metadata(((INITIAL_METADATA, metadata[INITIAL_METADATA]),))
    if TRAILING_METADATA in metadata:
        context.set_trailing_metadata(((TRAILING_METADATA, metadata[TRAILING_METADATA]),))


async def _echo_status(request: Any, context: Context) -> None:
    if request.response_status.code:
        await context.abort(CODES[request.response_status.code], request.response_status.message)
