"""The edge of the sidecar: bytes come in, bytes or a status go out, and nothing else ever gets past."""

from __future__ import annotations

import asyncio
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from session_notes_server.servicers import errors
from session_notes_server.servicers.access import Access
from session_notes_server.servicers.errors import StatusError
from session_notes_server.store import StoreUnavailable

log = logging.getLogger(__name__)

LAST_CALLS_SECONDS = 0.1


class Boundary:
    """Turns servicers into handlers that gRPC can serve, and knows which calls are in flight.

    gRPC's own way, a deserializer and a handler, hands a caller the text of whatever either of them raises. So the
    handlers made here take and give bytes, and translate every error themselves.

    Args:
        access: Who may call what; asked before a request is even parsed.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._in_flight: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def handlers(self, service: ServiceDescriptor, servicer: object) -> grpc.GenericRpcHandler:
        """Handlers for all methods of a service, by the names its descriptor gives."""
        return grpc.method_handlers_generic_handler(
            service.full_name,
            {
                method.name: grpc.unary_unary_rpc_method_handler(self._handler(method, getattr(servicer, method.name)))
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
        if self._in_flight:
            _, late = await asyncio.wait(self._in_flight, timeout=grace_seconds)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)

    def _handler(self, method: MethodDescriptor, behaviour: Callable[[Any, Any], Awaitable[Message]]) -> Any:
        request_type = GetMessageClass(method.input_type)

        async def handle(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - for the type checker: handlers run in tasks
            self._in_flight.add(task)
            try:
                if self._stopping:
                    raise errors.shutting_down()
                self._access.admit(method.full_name, context)
                response = await behaviour(_parsed(request_type, data), context)
                log.debug("%s: OK", method.full_name)
                return response.SerializeToString()
            except StatusError as error:
                status = error
            except StoreUnavailable:
                status = errors.store_unavailable()
            except asyncio.CancelledError:
                # The caller is gone or the sidecar stops. Ending in CancelledError would leave a caller that is still
                # there hanging to its deadline.
                status = errors.shutting_down()
            except Exception as error:
                error_id = secrets.token_hex(4)
                # Neither the exception's text nor the values in its frames: they may be what a user said.
                frames = "".join(traceback.format_tb(error.__traceback__))
                log.error("error %s in %s: %s\n%s", error_id, method.full_name, type(error).__qualname__, frames)
                status = errors.internal(error_id)
            finally:
                self._in_flight.discard(task)
            log.debug("%s: %s", method.full_name, status.code.name)
            await context.abort(status.code, status.message, status.trailing_metadata())
            raise AssertionError("abort always raises")

        return handle


def _parsed(request_type: type[Message], data: bytes) -> Message:
    try:
        return request_type.FromString(data)
    except DecodeError:
        raise errors.malformed_message() from None
