"""Clients of the session-notes sidecar.

The process that talks to the user:

    >>> from session_notes import PrimaryClient, Turn
    >>> with PrimaryClient() as primary:
    ...     primary.append_turns("session-1", [Turn("user", "Can we start in May?")])
    ...     primary.get_notes("session-1", unavailable_ok=True).as_tool_result()
    {'ready': False, 'reason': 'never_run'}

`TurnRecorder` stores turns in the background, so that the conversation never waits, not even during an outage.

The process that analyses the conversation:

    >>> from session_notes import Notes, ObserverClient
    >>> with ObserverClient() as observer, observer.run("session-1") as run:
    ...     run.write(Notes(summary=f"{len(run.transcript)} turns so far"))

`BackgroundObserver` runs analyses in a thread pool. Every class has a counterpart for asyncio: `AsyncPrimaryClient`,
`AsyncTurnRecorder`, `AsyncObserverClient`, `AsyncBackgroundObserver`. Every exception is a `SessionNotesError`.
`session_notes/_errors.py` begins with a list of all its subclasses.
"""

import importlib
import typing

from session_notes._async_observer import AsyncObserverClient
from session_notes._async_primary import AsyncPrimaryClient
from session_notes._async_runs import AsyncActiveRun
from session_notes._background import BackgroundObserver
from session_notes._channel import Endpoint
from session_notes._credentials import TLS, TokenFile
from session_notes._environment import unknown_variables
from session_notes._errors import (
    Conflict,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    RunAlreadyFailed,
    RunAlreadyWritten,
    RunInFlight,
    RunNotFound,
    ServerError,
    SessionDeleted,
    SessionNotAllowed,
    SessionNotesError,
    TooLarge,
    TurnCountMismatch,
    TurnsAlreadyAppended,
    Unauthenticated,
    Unavailable,
    UsageError,
    VersionMismatch,
)
from session_notes._limits import DEFAULT_NOTES_TIMEOUT, DEFAULT_RUN_TIMEOUT, DEFAULT_STATE_TIMEOUT
from session_notes._observer import ObserverClient
from session_notes._primary import PrimaryClient
from session_notes._recorder import TurnRecorder
from session_notes._results import (
    BeginResult,
    DueSession,
    Reading,
    RenewResult,
    Run,
    Session,
    SessionSummary,
    UpdateResult,
    WriteResult,
)
from session_notes._runs import ActiveRun
from session_notes._targets import DEFAULT_TARGET
from session_notes._types import Issue, Notes, Readiness, RunState, Severity, StaleReason, Turn, WriteOutcome

if typing.TYPE_CHECKING:
    from session_notes._async_background import AsyncBackgroundObserver
    from session_notes._async_raw import AsyncRawClient
    from session_notes._async_recorder import AsyncTurnRecorder
    from session_notes._feed import AsyncNotesFeed, NotesFeed
    from session_notes._raw import RawClient

__all__ = [
    "DEFAULT_NOTES_TIMEOUT",
    "DEFAULT_RUN_TIMEOUT",
    "DEFAULT_STATE_TIMEOUT",
    "DEFAULT_TARGET",
    "TLS",
    "ActiveRun",
    "AsyncActiveRun",
    "AsyncBackgroundObserver",
    "AsyncNotesFeed",
    "AsyncObserverClient",
    "AsyncPrimaryClient",
    "AsyncRawClient",
    "AsyncTurnRecorder",
    "BackgroundObserver",
    "BeginResult",
    "Conflict",
    "DeadlineExceeded",
    "DueSession",
    "Endpoint",
    "FieldViolation",
    "InvalidArgument",
    "Issue",
    "Notes",
    "NotesFeed",
    "ObserverClient",
    "Overloaded",
    "PermissionDenied",
    "PrimaryClient",
    "RawClient",
    "Readiness",
    "Reading",
    "RenewResult",
    "Run",
    "RunAlreadyFailed",
    "RunAlreadyWritten",
    "RunInFlight",
    "RunNotFound",
    "RunState",
    "ServerError",
    "Session",
    "SessionDeleted",
    "SessionNotAllowed",
    "SessionNotesError",
    "SessionSummary",
    "Severity",
    "StaleReason",
    "TokenFile",
    "TooLarge",
    "Turn",
    "TurnCountMismatch",
    "TurnRecorder",
    "TurnsAlreadyAppended",
    "Unauthenticated",
    "Unavailable",
    "UpdateResult",
    "UsageError",
    "VersionMismatch",
    "WriteOutcome",
    "WriteResult",
    "unknown_variables",
]

# Imported at their first use: few processes need them, and together they take 0.8 ms.
_LAZY = {
    "AsyncBackgroundObserver": "_async_background",
    "AsyncNotesFeed": "_feed",
    "AsyncRawClient": "_async_raw",
    "AsyncTurnRecorder": "_async_recorder",
    "NotesFeed": "_feed",
    "RawClient": "_raw",
}

if not typing.TYPE_CHECKING:  # A type checker that saw `__getattr__` would accept any name.

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"session_notes.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
