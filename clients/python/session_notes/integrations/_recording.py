"""Recording hooks: pass the turns of a framework's run to a recorder, each message once."""

import inspect
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakValueDictionary

from session_notes import Turn
from session_notes._errors import for_logs
from session_notes._recorder import WrongKind
from session_notes.integrations._arguments import class_name
from session_notes.integrations._messages import after_last
from session_notes.integrations._sessions import check_session_id, session_of

log = logging.getLogger("session_notes")

MAX_REMEMBERED_MESSAGES = 10_000
"""The maximum number of message ids that a recorder's hooks remember, across all sessions."""


class Recorder(Protocol):
    """A `TurnRecorder`, an `AsyncTurnRecorder`, or any object with the same `record` method."""

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """Append the turns to the transcript, then submit a run. Return immediately."""


class RecordingHook:
    """The common part of all hooks, which records the turns of a run in the session of its context.

    Args:
        recorder: Stores the turns and submits runs.
        session_id: The session id, or a function that maps the framework's context to one.

    Raises:
        InvalidArgument: If the recorder has no usable `record` method, or `session_id` is neither a string nor a plain
            function.
    """

    def __init__(self, recorder: Recorder, session_id: str | Callable[[Any], str]) -> None:
        record = getattr(recorder, "record", None)
        if isinstance(recorder, type) or not callable(record) or inspect.iscoroutinefunction(record):
            raise WrongKind(
                f"recorder must be a session_notes TurnRecorder or AsyncTurnRecorder, not {class_name(recorder)}"
            )
        check_session_id(session_id)
        self._recorder = recorder
        self._session_id = session_id
        # All hooks of a recorder share these ids. Each hook references the recorder, so its `id` is not reused.
        self._recorded = _RECORDED.setdefault(id(recorder), _RecordedMessages())

    def record(self, context: Any, turns: Iterable[Turn], *, observe: bool = True) -> None:
        """Record turns in the session of a context, then submit a run if `observe`. Do nothing if there are none."""
        if new := tuple(turns):
            self._recorder.record(session_of(self._session_id, context), *new, observe=observe)

    def after_recorded(self, context: Any, message_ids: Sequence[Any]) -> int:
        """Return the position after the last message known to be recorded; 0 if there is none."""
        session_id = session_of(self._session_id, context)
        return after_last(message_ids, lambda message_id: self._recorded.contains(session_id, message_id))

    def record_once(self, context: Any, messages: Iterable[tuple[Any, Turn]], *, observe: bool = True) -> None:
        """Record the turns that have text and whose messages have not been recorded yet, then submit a run."""
        session_id = session_of(self._session_id, context)
        with_text = [(message_id, turn) for message_id, turn in messages if turn.text.strip()]
        if new := [turn for message_id, turn in with_text if self._recorded.add(session_id, message_id)]:
            self._recorder.record(session_id, *new, observe=observe)


class ErrorBoundary:
    """A context manager that logs a hook's error and keeps it out of the framework's run.

    The log has the error's class and, of an invalid argument, its name. It has no other text of the error and no
    traceback, since they may contain user data.

    Args:
        failure: What failed, for the log.
    """

    def __init__(self, failure: str = "a hook did not record its turns") -> None:
        self._failure = failure

    def __enter__(self) -> None:
        """Enter the context."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        log.warning("%s: %s", self._failure, for_logs(error))
        return True


class _RecordedMessages:
    """The ids of recorded messages, for frameworks that pass the same messages to a hook repeatedly.

    Bounded: the oldest ids are dropped first. Thread-safe.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.RLock()

    def contains(self, session_id: str, message_id: object) -> bool:
        """Return whether a message was added and is still remembered."""
        with self._lock:
            return (session_id, message_id) in self._ids

    def add(self, session_id: str, message_id: object) -> bool:
        """Remember a message and return whether it is new. A message without an id is always new."""
        if not isinstance(message_id, str) or not message_id:
            return True
        key = (session_id, message_id)
        with self._lock:
            if key in self._ids:
                return False
            self._ids[key] = None
            if len(self._ids) > MAX_REMEMBERED_MESSAGES:
                self._ids.popitem(last=False)
        return True


_RECORDED: WeakValueDictionary[int, _RecordedMessages] = WeakValueDictionary()
"""The recorded messages of each recorder, keyed by the recorder's `id`."""
