"""The edge of the sidecar: bytes come in, bytes or a status go out, and nothing else ever gets past."""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from session_notes_server.rpc import errors
from session_notes_server.rpc.admission import Gate
from session_notes_server.rpc.authorization import Access
from session_notes_server.rpc.errors import StatusError
from session_notes_server.store import RefusalLog, StoreUnavailable
from session_notes_server.telemetry.call_log import Account
from session_notes_server.telemetry.metrics.counting import Metrics

if TYPE_CHECKING:
    from session_notes_server.telemetry.tracing.traces import Traces

log = logging.getLogger(__name__)

LAST_CALLS_SECONDS = 0.1

# Whose requests carry what users and observers have to say. All others are some hundred bytes, and never wait.
LARGE_REQUESTS = {"BatchGetNotes", "WriteNotes", "UpdateSession", "AppendTurns"}
# Whose answers may carry much of a session, or of many. GetNotes, which has one document at most, never waits.
LARGE_ANSWERS = {"BatchGetNotes", "BeginRun", "GetSession", "ListRuns", "ListSessions"}
# How the names of methods begin that change nothing.
READS = ("Get", "BatchGet", "List")


class Boundary:
    """Turns servicers into handlers that gRPC can serve, and knows which calls are in flight.

    gRPC's own way, a deserializer and a handler, hands a caller the text of whatever either of them raises. So the
    handlers made here take and give bytes, and translate every error themselves.

    Args:
        access: Who may call what; asked before a request is even taken off the wire.
        gate: How many calls there may be at once.
        metrics: Where calls are counted, if that is wanted.
        traces: What makes a span of each call; None: nobody wants any.
    """

    def __init__(
        self, access: Access, gate: Gate, metrics: Metrics | None = None, traces: Traces | None = None
    ) -> None:
        self._access = access
        self._traces = traces
        self._refusals = RefusalLog()
        self._gate = gate
        self._metrics = metrics
        self._stopping = False

    def handlers(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Handlers for all methods of a service, by the names its descriptor gives."""
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                # The same on the wire as a unary request, but for the handler to say when its message is taken.
                method.name: grpc.stream_unary_rpc_method_handler(self._traced(method, getattr(servicer, method.name)))
                for method in service.methods
            },
        )

    async def drain(self, grace_seconds: float) -> None:
        """Take no new calls, and wait for those in flight; what has not finished by then is ended with a status.

        `grpc.aio.Server.stop` alone ends calls that have just arrived as CANCELLED, which tells a caller nothing, and
        returns before the handlers it cancelled are done.
        """
        self._stopping = True
        # New calls are refused meanwhile, one by one: whoever is on its way is told why.
        await asyncio.sleep(LAST_CALLS_SECONDS)
        self._gate.close()
        if calls := self._gate.inside:
            _, late = await asyncio.wait(calls, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)

    def _traced(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Message]]) -> Any:
        handle = self._handler(method, behaviour)
        return handle if self._traces is None else self._traces.of_calls(method, handle)

    def _handler(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Message]]) -> Any:
        # Looked up once: a descriptor makes its name anew each time.
        request_type, name, refusable = (
            GetMessageClass(method.input_type),
            method.full_name,
            method.name.startswith(READS),
        )
        large_request, large_answer = method.name in LARGE_REQUESTS, method.name in LARGE_ANSWERS
        account = Account(name, self._metrics)

        async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            began, left, call = account.begin(), False, None
            try:
                if self._stopping:
                    raise errors.shutting_down()
                call = self._gate.enter(context)
                self._access.admit(name, context)
                data = await call.request(large=large_request)
                if large_answer:
                    await call.turn()
                response = await behaviour(_parsed(request_type, data), context)
                answer = response.SerializeToString()
                call.answer(len(answer), refusable=refusable)
                account.end(began, grpc.StatusCode.OK)
                return answer
            except StatusError as error:
                # Its frames hold the request, and ours holds it: a circle that would stay until the next collection.
                status = error.with_traceback(None)
            except StoreUnavailable as error:
                self._refusals.record(error.__cause__)
                status = errors.store_unavailable()
            except asyncio.CancelledError:
                # The caller is gone or the sidecar stops. Ending in CancelledError would leave a caller that is still
                # there hanging to its deadline.
                status, left = errors.shutting_down(), not self._stopping
            except Exception as error:
                error_id = secrets.token_hex(4)
                # Neither the exception's text nor the values in its frames: they may be what a user said.
                frames = "".join(traceback.format_tb(error.__traceback__))
                log.error(
                    "error %s in %s: %s\n%s",
                    *(error_id, name, type(error).__qualname__, frames),
                    extra={"method": name, "error_id": error_id},
                )
                status = errors.internal(error_id)
            if left:
                account.end(began, grpc.StatusCode.CANCELLED)
            else:
                account.end(began, status.code, status.reason)
            if call is not None:
                call.answering()
            await context.abort(status.code, status.message, status.trailing_metadata())
            raise AssertionError("abort always raises")

        return handle


def _parsed(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError:
        raise errors.malformed_message() from None
