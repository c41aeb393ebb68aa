"""RPCs as values: the request, how to decode the response, and whether a retry is safe.

This module sends nothing, so blocking and asyncio clients share it. `_notes_calls` and `_state_calls` build the
calls of each service, and the transports send them.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeAlias, TypeVar

from session_notes import _encoding
from session_notes._errors import Unavailable, invalid
from session_notes._limits import MAX_TIMEOUT
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_state_pb2 as state_api

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

T = TypeVar("T")
P = ParamSpec("P")

Page: TypeAlias = tuple[list[T], str]
"""A page of a listing, and the token of the next page. An empty token: it is the last page."""


class Call(Generic[T]):
    """One RPC, ready to be sent.

    Attributes:
        method: Full path of the RPC.
        request: The request message.
        response_type: Class of the response message.
        read: Decodes the response into the client's result.
        retryable: Whether the call is retried.
        repeatable: Whether sending it twice has the same effect as sending it once. If not, it is retried only after
            errors of calls that had no effect.
        fallback: Returns the result to use if there is no response. None: the error is raised.
    """

    __slots__ = ("fallback", "method", "read", "repeatable", "request", "response_type", "retryable")

    def __init__(
        self,
        method: str,
        request: Message,
        response_type: type[Message],
        read: Callable[[Any], T],
        *,
        retryable: bool = False,
        repeatable: bool = True,
        fallback: Callable[[Unavailable], T] | None = None,
    ) -> None:
        self.method = method
        self.request = request
        self.response_type = response_type
        self.read = read
        self.retryable = retryable
        self.repeatable = repeatable
        self.fallback = fallback


def new_id() -> str:
    """Return a unique id of a run or an append. The client generates it, so that every retry carries the same id."""
    return os.urandom(16).hex()


def check_options(observer: str = "", **spans: timedelta) -> None:
    """Reject options of a client that would make every call fail to encode.

    Raises:
        InvalidArgument: If an option has the wrong type.
    """
    try:
        _encoding.text("observer", observer)
        for name, span in spans.items():
            _encoding.timespan(name, span)
    except _encoding.Unencodable as error:
        raise invalid(error.argument, error.problem) from error


def check_span(name: str, span: timedelta, *, zero: bool = False) -> None:
    """Reject a span that is not above 0, or not at least 0."""
    if not isinstance(span, timedelta):
        raise invalid(name, f"must be a datetime.timedelta, not {type(span).__name__}")
    if not timedelta() <= span <= MAX_TIMEOUT or (span == timedelta() and not zero):
        raise invalid(name, f"must be {'at least' if zero else 'above'} 0 and at most 100 years")


def observer_names(observers: Iterable[str]) -> list[str]:
    """Return the names of one or more observers.

    Raises:
        InvalidArgument: If they are not a list of strings, or if there are none.
    """
    try:
        names = _encoding.texts("observers", observers)
    except _encoding.Unencodable as error:
        raise invalid(error.argument, error.problem) from error
    if not names:
        raise invalid("observers", "must name at least one observer")
    return names


def builder(build: Callable[P, Call[T]]) -> Callable[P, Call[T]]:
    """Decorate a function that builds a call, so that arguments that cannot be encoded raise InvalidArgument."""

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Call[T]:
        try:
            return build(*args, **kwargs)
        except _encoding.Unencodable as error:
            raise invalid(error.argument, error.problem, error.keys) from error

    return checked


@functools.cache
def _methods() -> Mapping[str, MethodDescriptor]:
    """Return the methods of the contract by the full name of their request message. No two methods share one."""
    return {
        method.input_type.full_name: method
        for api in (notes_api, state_api)
        for service in api.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }


def raw(request: Message) -> Call[Any]:
    """Build the call for a request message. Its result is the response message.

    Raises:
        InvalidArgument: If it is not a request message of the contract.
    """
    from google.protobuf.message_factory import GetMessageClass  # Needed only for raw calls.

    method = _methods().get(getattr(getattr(request, "DESCRIPTOR", None), "full_name", ""))
    if method is None:
        raise invalid("request", f"must be a request message of session_notes.v1, not {type(request).__name__}")
    path = f"/{method.containing_service.full_name}/{method.name}"
    return Call(path, request, GetMessageClass(method.output_type), lambda message: message)
