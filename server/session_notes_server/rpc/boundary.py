"""The boundary to the engines: handlers that take bytes, call a servicer, and return bytes or a status."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from session_notes_server.contract import SERVICES
from session_notes_server.identity.callers import ALL_SESSIONS
from session_notes_server.rpc import errors
from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.authorization import Authorization, limit_sessions
from session_notes_server.rpc.errors import StatusError
from session_notes_server.store import RefusalLog, StoreUnavailable
from session_notes_server.telemetry.calls import Telemetry

LAST_CALLS_SECONDS = 0.1

LARGE_REQUESTS = {"BatchGetNotes", "WriteNotes", "UpdateSession", "AppendTurns", "ListDueSessions"}
"""Methods whose requests carry text of users and observers, or long page tokens. Other requests never wait."""

LARGE_RESPONSES = {"BatchGetNotes", "BeginRun", "GetSession", "ListDueSessions", "ListRuns", "ListSessions"}
"""Methods whose responses may hold much of a session, or of many. GetNotes returns one document and never waits."""

READS = {"GetNotes", "BatchGetNotes", "ListDueSessions", "ListRuns", "GetSession", "ListSessions"}
"""Read-only methods. If there is no room for the response of one, the call can still be rejected."""

WRITES = {"BeginRun", "WriteNotes", "FailRun", "RenewRun", "UpdateSession", "AppendTurns", "DeleteSession"}
"""All other methods of the contract."""

_METHODS = {method.name for service in SERVICES for method in service.methods}
if READS ^ WRITES != _METHODS or not LARGE_REQUESTS | LARGE_RESPONSES <= _METHODS:
    raise AssertionError("READS or WRITES must list each method of the contract, and the other sets no other method")


class Boundary:
    """The handlers that an engine serves, with admission control, authorization and telemetry.

    If a usual deserializer or handler raises, grpc.aio sends the text of the exception to the caller. These handlers
    therefore take and return bytes, and translate every error themselves.
    """

    def __init__(self, authorization: Authorization, admission: Admission, telemetry: Telemetry) -> None:
        self._authorization = authorization
        self._admission = admission
        self._telemetry = telemetry
        self._refusals = RefusalLog()
        self._stopping = False

    def handlers(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Return handlers for all methods of a service."""
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                # Identical to unary_unary on the wire, but the handler decides when to read the request.
                method.name: grpc.stream_unary_rpc_method_handler(self._handler(method, getattr(servicer, method.name)))
                for method in service.methods
            },
        )

    def unknown_methods(self) -> grpc.GenericRpcHandler:
        """Return a handler that reports calls to unknown methods to telemetry. It must be registered last."""
        return _UnknownMethods(self._telemetry)

    async def drain(self, grace_seconds: float) -> None:
        """Reject new calls, wait for those in flight, and after the grace period end the rest with a status.

        `grpc.aio.Server.stop` alone would end newly arrived calls as CANCELLED without a reason, and return before the
        handlers that it cancels are done.
        """
        self._stopping = True
        # For this long, calls that still arrive are rejected one by one with a reason.
        await asyncio.sleep(LAST_CALLS_SECONDS)
        self._admission.transfers.give_up_requests()
        if calls := self._admission.tasks:
            _, late = await asyncio.wait(calls, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)

    def _handler(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Message]]) -> Any:
        # Looked up once, because a descriptor rebuilds its name on each access.
        request_type, name, droppable = (
            GetMessageClass(method.input_type),
            method.full_name,
            method.name not in WRITES,
        )
        large_request, large_response = method.name in LARGE_REQUESTS, method.name in LARGE_RESPONSES
        telemetry = self._telemetry.method(name)

        async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            observed, cancelled, call, request = telemetry.begin(context), False, None, None
            try:
                if self._stopping:
                    raise errors.shutting_down()
                call = self._admission.admit(context)
                prefixes = self._authorization.check(name, context)
                data = await call.read_request(large=large_request)
                if large_response:
                    await call.wait_to_respond()
                request = _parsed(request_type, data)
                if prefixes is not ALL_SESSIONS:
                    await limit_sessions(name, prefixes, request)
                response = await behaviour(request, context)
                serialized = response.SerializeToString()
                call.hold_response(len(serialized), droppable=droppable)
                telemetry.end(observed, grpc.StatusCode.OK, request=request, response=response)
                return serialized
            except StatusError as error:
                # The traceback refers to the request, and this frame to the status. The cycle would keep both in memory
                # until the next garbage collection.
                status = error.with_traceback(None)
            except StoreUnavailable as error:
                self._refusals.record(error.__cause__)
                status = errors.store_unavailable()
            except asyncio.CancelledError:
                # The caller is gone, or the sidecar is shutting down. On shutdown, raising CancelledError would leave
                # the caller waiting for its deadline.
                status, cancelled = errors.shutting_down(), not self._stopping
            except Exception as error:
                status = errors.bug(error, name)
            if cancelled:
                telemetry.end(observed, grpc.StatusCode.CANCELLED)
            else:
                telemetry.end(observed, status.code, status.reason, request=request)
            # A caller that does not read its status must not keep the parsed request in memory.
            request = None
            if call is not None:
                call.sending()
            await context.abort(status.code, status.message, status.trailing_metadata())
            raise AssertionError("abort always raises")

        return handle


def _parsed(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError:
        raise errors.malformed_message() from None


class _UnknownMethods(grpc.GenericRpcHandler):
    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    def service(self, _: grpc.HandlerCallDetails) -> None:
        self._telemetry.unknown_method()
