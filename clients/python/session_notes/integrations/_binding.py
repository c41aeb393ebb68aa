"""The ties between a framework's hooks and tools and this client: sessions, recorders, and the guard around hooks."""

import inspect
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Protocol, TypedDict, TypeVar, runtime_checkable
from weakref import WeakValueDictionary

from session_notes import InvalidArgument, Turn
from session_notes._recorder import WrongKind

T = TypeVar("T")

LOGGER = logging.getLogger("session_notes")

REMEMBERED_MESSAGES = 10_000
"""Ids of recorded messages that the hooks of one recorder remember, over all sessions."""


class NoSession(InvalidArgument):
    """A run whose context does not name a session. Its text is fixed, so logs may hold it."""


class NotesOptions(TypedDict, total=False):
    """The options of a tool besides its client and session; meanings and defaults are those of `NotesTool`."""

    observer: str
    max_age: timedelta | None
    max_turns_behind: int | None
    name: str
    description: str


@runtime_checkable
class Recorder(Protocol):
    """A `TurnRecorder`, an `AsyncTurnRecorder`, or any object with such a method; it returns at once."""

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """Have turns appended, and a run submitted afterwards."""


class RecordingHook:
    """The common part of all hooks: a recorder, a session, and nothing that reaches the framework's run.

    Args:
        recorder: Records the turns, and submits runs.
        session_id: The session, or a function that finds it in the framework's context.

    Raises:
        InvalidArgument: If the recorder cannot record, or the session is neither a string nor a function.
    """

    def __init__(self, recorder: Recorder, session_id: str | Callable[[Any], str]) -> None:
        record = getattr(recorder, "record", None)
        if isinstance(recorder, type) or not callable(record) or inspect.iscoroutinefunction(record):
            raise WrongKind(
                f"recorder must be a session_notes TurnRecorder or AsyncTurnRecorder, not {kind_of(recorder)}"
            )
        check_session_id(session_id)
        self._recorder = recorder
        self._session_id = session_id
        # Hooks of one recorder share it, and keep it. A recorder that a hook holds has its id to itself.
        self._recorded = _RECORDED.setdefault(id(recorder), _RecordedMessages())

    def record(self, context: Any, turns: Iterable[Turn]) -> None:
        """Record these turns on the session that belongs to a framework's context; none: do nothing."""
        if collected := tuple(turns):
            self._recorder.record(session_of(self._session_id, context), *collected)

    def count_recorded(self, context: Any, message_ids: Sequence[Any]) -> int:
        """Return how many messages there are up to the last one that is remembered as recorded; 0: none is."""
        session_id = session_of(self._session_id, context)
        numbers = range(len(message_ids), 0, -1)
        return next((n for n in numbers if self._recorded.knows(session_id, message_ids[n - 1])), 0)

    def record_once(self, context: Any, messages: Iterable[tuple[Any, Turn]]) -> None:
        """Record those of the turns, each with its message's id, that were not recorded before."""
        session_id = session_of(self._session_id, context)
        said = [(message_id, turn) for message_id, turn in messages if turn.text.strip()]
        if new := [turn for message_id, turn in said if self._recorded.add(session_id, message_id)]:
            self._recorder.record(session_id, *new)


class guarded:  # noqa: N801 - reads as a verb, like `suppress`
    """Keep every error of a hook away from the run that it listens to, and log its kind alone.

    A message may hold the user's words, so neither the text of an error nor its traceback is logged.
    """

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if kind is None or not issubclass(kind, Exception):
            return False
        hint = f": {error}" if isinstance(error, NoSession) else ""
        LOGGER.warning("a hook did not record what was said: %s%s", kind.__name__, hint)
        return True


class _RecordedMessages:
    """The ids of messages that are recorded already, for frameworks that hand over the same ones again.

    Bounded: the oldest are forgotten. Safe to use from many threads.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._lock = threading.Lock()

    def knows(self, session_id: str, message_id: object) -> bool:
        """Return whether a message was added, and is not forgotten."""
        with self._lock:
            return (session_id, message_id) in self._ids

    def add(self, session_id: str, message_id: object) -> bool:
        """Remember a message and return whether it is new; one without an id always is."""
        if not isinstance(message_id, str) or not message_id:
            return True
        key = (session_id, message_id)
        with self._lock:
            if key in self._ids:
                return False
            self._ids[key] = None
            if len(self._ids) > REMEMBERED_MESSAGES:
                self._ids.popitem(last=False)
        return True


_RECORDED: WeakValueDictionary[int, _RecordedMessages] = WeakValueDictionary()
"""What is remembered for each recorder, by its `id`."""


def session_of(session_id: str | Callable[[T], str], context: T) -> str:
    """Return the session: the given one, or the one that the application's function finds in the context."""
    return session_id(context) if callable(session_id) else session_id


def check_session_id(session_id: object) -> None:
    """Raise InvalidArgument if this is neither a session's id nor a function that finds it."""
    if not isinstance(session_id, str) and not callable(session_id):
        raise WrongKind(f"session_id must be a str, or a function that returns one, not {type(session_id).__name__}")
    if inspect.iscoroutinefunction(session_id):
        raise WrongKind("session_id must be a plain function, not a coroutine function")


def check_client(client: object, *classes: type, otherwise: str = "") -> None:
    """Raise InvalidArgument, naming the classes that fit and what to do otherwise, if a client is of another kind."""
    if not isinstance(client, classes):
        names = " or ".join(fitting.__name__ for fitting in classes)
        raise WrongKind(f"client must be of the class {names}, not {kind_of(client)}{otherwise}")


def kind_of(value: object) -> str:
    """Return the name of an object's class, or of a class itself."""
    return (value if isinstance(value, type) else type(value)).__name__


def turns(words: Iterable[str], answers: Iterable[str]) -> list[Turn]:
    """Return the user's words and then the model's as turns, without those that have no text."""
    said = [("user", text) for text in words] + [("primary", text) for text in answers]
    return [Turn(speaker, text) for speaker, text in said if text.strip()]


def text_of(output: Any) -> str:
    """Return an agent's output as text: a string as it is, a structured answer as JSON, nothing for None."""
    if output is None or isinstance(output, str):
        return output or ""
    from pydantic_core import to_json  # a dependency of every framework, and not of this client

    return to_json(output, fallback=str).decode()


def get(item: Any, name: str) -> Any:
    """Return a field of a message, be it a mapping or an object; None where it has no such field."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)
