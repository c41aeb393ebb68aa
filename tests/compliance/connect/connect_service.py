"""connectrpc.conformance.v1.ConformanceService, as service.proto in Connect's conformance suite describes it."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from google.rpc.status_pb2 import Status
from session_notes_server.rpc.engines import Engine

from tests.compliance.services import CODES, Context, Contract

PACKAGE = "connectrpc.conformance.v1"


def add_to(engine: Engine, contract: Contract) -> None:
    """Register the service with an engine."""
    contract.add_to(engine, f"{PACKAGE}.ConformanceService", ConformanceService(contract))


class ConformanceService:
    """The methods that gRPC clients call, except the unimplemented one."""

    def __init__(self, contract: Contract) -> None:
        self._payload = contract.message(f"{PACKAGE}.ConformancePayload")
        self._unary_response = contract.message(f"{PACKAGE}.UnaryResponse")
        self._client_stream_response = contract.message(f"{PACKAGE}.ClientStreamResponse")
        self._server_stream_response = contract.message(f"{PACKAGE}.ServerStreamResponse")
        self._bidi_stream_response = contract.message(f"{PACKAGE}.BidiStreamResponse")

    async def Unary(self, request: Any, context: Context) -> Any:
        return self._unary_response(payload=await self._single_payload([request], context))

    async def ClientStream(self, requests: AsyncIterator[Any], context: Context) -> Any:
        received = [request async for request in requests]
        return self._client_stream_response(payload=await self._single_payload(received, context))

    async def ServerStream(self, request: Any, context: Context) -> AsyncIterator[Any]:
        definition = request.response_definition
        await _send_metadata(definition, context)
        for index, data in enumerate(definition.response_data):
            await _delay(definition)
            payload = self._payload(data=data)
            if index == 0:
                _report([request], context, payload.request_info)
            yield self._server_stream_response(payload=payload)
        if definition.HasField("error"):
            await self._abort(definition, None if definition.response_data else [request], context)

    async def BidiStream(self, requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        first, received, sent = None, list[Any](), 0
        async for request in requests:
            received.append(request)
            if first is None:
                first = request
                await _send_metadata(first.response_definition, context)
            if first.full_duplex:
                if sent == len(first.response_definition.response_data):
                    break
                yield await self._bidi_response(first.response_definition, sent, received, context)
                received, sent = [], sent + 1
        if first is None:
            return
        definition = first.response_definition
        for index in range(sent, len(definition.response_data)):
            yield await self._bidi_response(definition, index, received, context)
            received = []
        if definition.HasField("error"):
            await self._abort(definition, None if definition.response_data else received, context)

    async def _single_payload(self, requests: Sequence[Any], context: Context) -> Any:
        """Return the payload of a call with one response, or end the call with the error that was asked for."""
        payload = self._payload()
        if requests and requests[0].HasField("response_definition"):
            definition = requests[0].response_definition
            await _send_metadata(definition, context)
            await _delay(definition)
            if definition.HasField("error"):
                await self._abort(definition, requests, context)
            payload.data = definition.response_data
        _report(requests, context, payload.request_info)
        return payload

    async def _bidi_response(self, definition: Any, index: int, received: Sequence[Any], context: Context) -> Any:
        await _delay(definition)
        payload = self._payload(data=definition.response_data[index])
        if index == 0:
            _report(received, context, payload.request_info)
        for request in received if index else ():
            payload.request_info.requests.add().Pack(request)
        return self._bidi_stream_response(payload=payload)

    async def _abort(self, definition: Any, requests: Sequence[Any] | None, context: Context) -> None:
        """End the call with the defined error. Its details report the requests, unless a response has done so."""
        error = definition.error
        status = Status(code=error.code, message=error.message)
        if requests is not None:
            payload = self._payload()
            _report(requests, context, payload.request_info)
            error.details.add().Pack(payload.request_info)
        for detail in error.details:  # Of another descriptor pool.
            status.details.add(type_url=detail.type_url, value=detail.value)
        trailers = _metadata(definition.response_trailers)
        details = ("grpc-status-details-bin", status.SerializeToString())
        await context.abort(CODES[error.code], error.message, (*trailers, details))


def _report(requests: Iterable[Any], context: Context, info: Any) -> None:
    """Set what the server has seen of a call: metadata, deadline and requests."""
    headers: dict[str, Any] = {}
    for name, value in context.invocation_metadata() or ():
        header = headers.get(name) or headers.setdefault(name, info.request_headers.add(name=name))
        header.value.append(base64.b64encode(value).decode() if isinstance(value, bytes) else value)
    remaining = context.time_remaining()
    if remaining is not None:
        info.timeout_ms = int(remaining * 1000)
    for request in requests:
        info.requests.add().Pack(request)


async def _send_metadata(definition: Any, context: Context) -> None:
    await context.send_initial_metadata(_metadata(definition.response_headers))
    context.set_trailing_metadata(_metadata(definition.response_trailers))


def _metadata(headers: Iterable[Any]) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(
        (name, base64.b64decode(value + "==") if name.endswith("-bin") else value)
        for name, value in ((header.name.lower(), value) for header in headers for value in header.value)
    )


async def _delay(definition: Any) -> None:
    await asyncio.sleep(definition.response_delay_ms / 1000)
