"""The base of the store's operations: executors, instrumentation, and reading replies."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from session_notes_server.store import scripts
from session_notes_server.store.errors import Refused
from session_notes_server.store.instrumentation import Instrumentation
from session_notes_server.store.redis.executor import Executor

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="StoreBase")

LARGE_REPLY_BYTES = 256 * 1024
"""Replies larger than this are read one at a time, so that the store serves other calls in between."""

SESSIONS_PER_ROUND_TRIP = 100
"""Number of sessions read in one round trip. Other calls are served between round trips."""

REMEMBERED_TTLS = 10_000
"""Number of sessions whose own ttl is remembered, in about 2 MB."""

OPERATIONS: list[str] = []
"""Names of all operations, in definition order."""


def operation(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Register a method as an operation, and have the store's instrumentation wrap it."""
    name = method.__name__
    OPERATIONS.append(name)

    @wraps(method)
    def instrumented(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        work = method(self, *args, **kwargs)
        return work if self.instrumentation is None else self.instrumentation.instrument(name, work)

    return instrumented


class StoreBase:
    """The executors and settings that operations share.

    Args:
        notes: Executor for `get_notes` alone, so that no other call can delay a primary.
        reads: Executor for the other operations that only read.
        writes: Executor for operations that change a session.
        session_ttl: How long a session is kept after its last change, unless it has its own ttl.
        on_deletion: Called after every deletion, including one whose outcome is unknown.
        instrumentation: Wraps each operation.
    """

    def __init__(
        self,
        *,
        notes: Executor,
        reads: Executor,
        writes: Executor,
        session_ttl: timedelta,
        on_deletion: Callable[[], None],
        instrumentation: Instrumentation | None = None,
    ) -> None:
        self.instrumentation = instrumentation
        self._notes = notes
        self._reads = reads
        self._writes = writes
        self._session_ttl_ms = milliseconds(session_ttl)
        self._on_deletion = on_deletion
        self._session_ttls = SessionTTLs()


class SessionTTLs:
    """The sessions' own ttls, as far as this process knows them.

    The store loses a session's ttl when the session expires. A late write re-creates the session, and must not keep
    data for a day that was meant to last seconds.
    """

    def __init__(self) -> None:
        self._ttls: dict[str, int] = {}

    def remember(self, session_id: str, ttl_ms: int | None) -> None:
        """Remember a session's own ttl in milliseconds. None: the session has the default ttl."""
        self._ttls.pop(session_id, None)
        if ttl_ms is not None:
            self._ttls[session_id] = ttl_ms
            if len(self._ttls) > REMEMBERED_TTLS:
                del self._ttls[next(iter(self._ttls))]

    def get(self, session_id: str) -> int | None:
        """Return a session's own ttl in milliseconds, or None if none is remembered."""
        return self._ttls.get(session_id)


async def run_bounded(
    executor: Executor, session_id: str, arguments: scripts.BeginRun | scripts.ListRuns | scripts.GetSession
) -> list[Any]:
    """Run a script. If its reply would be large, run it again when no other large reply is being read."""
    reply = await executor.run(session_id, arguments)
    if reply[0] == b"LARGE":
        return await executor.run_serially(partial(executor.run, session_id, arguments._replace(max_reply_bytes=None)))
    return reply


def accepted(reply: list[Any]) -> list[Any]:
    """Return a reply with its outcome decoded.

    Raises:
        Refused: If the reply is a refusal, which consists of its name and the names and values of its details.
    """
    name, *rest = reply
    outcome = name.decode()
    if outcome not in scripts.OUTCOMES:
        raise Refused(outcome, {key.decode(): value.decode() for key, value in pairs(rest)})
    return [outcome, *rest]


def pairs(flat: list[Any]) -> Iterable[tuple[bytes, Any]]:
    """Return the pairs of a list in which names and values alternate."""
    return zip(flat[::2], flat[1::2], strict=True)


def microseconds(span: timedelta) -> int:
    """Return a span in microseconds."""
    return span // timedelta(microseconds=1)


def milliseconds(span: timedelta) -> int:
    """Return a span in milliseconds, rounded up."""
    return -(-span // timedelta(milliseconds=1))
