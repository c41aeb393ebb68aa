"""Takes down what is said without holding up who says it, and has an observer look at it."""

import threading
from collections import deque
from datetime import timedelta
from types import TracebackType
from typing import NamedTuple, Self

from session_notes._background import BackgroundObserver
from session_notes._errors import SessionNotesError
from session_notes._primary import PrimaryClient
from session_notes._runs import LOGGER, log_name
from session_notes._types import Turn

DEFAULT_RECORD_TIMEOUT = timedelta(seconds=1)
"""How long one recording waits for the sidecar unless told."""

MOST_WAITING = 1000
"""How many recordings may wait at once; then the next ones are lost, and the log says so."""


class _Recording(NamedTuple):
    """Turns to be appended, and whether an observer is to look then."""

    session_id: str
    turns: tuple[Turn, ...]
    observe: bool


class TurnRecorder:
    """Appends turns to transcripts in a thread of its own, one recording after the other, and then submits a run.

        >>> with BackgroundObserver(analyse) as observer, TurnRecorder(primary, observer) as recorder:
        ...     recorder.record("session-1", Turn("user", "Can we start in May?"))

    `record` returns at once and never raises, whatever the sidecar does, so it may be called on the path of a
    conversation, in any thread or event loop. The run begins after the turns are stored, so it sees them.

    What cannot be stored in time is lost to the transcript, since storing it again could store it twice. The logger
    `session_notes` says so, with no word of what was said.

    Args:
        client: Appends the turns; it stays open.
        observer: Looks at the session after each recording; None: another process does, in its own time.
        timeout: How long one recording may take.
    """

    def __init__(
        self,
        client: PrimaryClient,
        observer: BackgroundObserver | None = None,
        *,
        timeout: timedelta = DEFAULT_RECORD_TIMEOUT,
    ) -> None:
        self._client = client
        self._observer = observer
        self._timeout = timeout
        self._waiting: deque[_Recording] = deque()
        self._changed = threading.Condition()
        self._at_work = False
        self._closing = False
        self._closed = False
        # A daemon: a sidecar that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="session-notes-recorder", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def record(self, session_id: str, *turns: Turn, observe: bool = True) -> None:
        """Has these turns appended, all or none, and a run submitted after that. Returns at once; never raises.

        Args:
            session_id: The session they belong to.
            turns: What was said, in order; none: only a run is submitted.
            observe: Whether to submit a run; False: there is one after the next turn.
        """
        recording = _Recording(session_id, turns, observe)
        with self._changed:
            lost = "closed" if self._closing else "too many wait" if len(self._waiting) >= MOST_WAITING else ""
            if not lost:
                self._waiting.append(recording)
                self._changed.notify_all()
        if lost:
            self._log_lost(recording, lost)

    def close(self, timeout: timedelta = timedelta(seconds=5)) -> bool:
        """Takes nothing more, finishes what waits, and stops; whether all of it was finished in time."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            finished = self._changed.wait_for(lambda: not (self._waiting or self._at_work), timeout.total_seconds())
            self._closed = True
            lost = list(self._waiting)
            self._waiting.clear()
        for recording in lost:
            self._log_lost(recording, "closed")
        return finished

    def _work(self) -> None:
        while (recording := self._take()) is not None:
            try:
                self._append(recording)
                self._submit(recording)
            finally:
                with self._changed:
                    self._at_work = False
                    self._changed.notify_all()

    def _take(self) -> _Recording | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            self._at_work = True
            return self._waiting.popleft()

    def _append(self, recording: _Recording) -> None:
        if not recording.turns:
            return
        try:
            self._client.append_turns(recording.session_id, recording.turns, timeout=self._timeout)
        except Exception as error:
            # Whatever it is, the next recording is to have its chance. Its name alone: its text may hold what was said.
            self._log_lost(recording, type(error).__name__)

    def _submit(self, recording: _Recording) -> None:
        if self._observer is None or not recording.observe or self._closed:
            return
        try:
            self._observer.submit(recording.session_id)
        except SessionNotesError as error:
            LOGGER.warning("session %s: no run was submitted: %s", log_name(recording.session_id), type(error).__name__)

    def _log_lost(self, recording: _Recording, why: str) -> None:
        session, turns, _ = recording
        LOGGER.warning("session %s: %d turns not recorded: %s", log_name(session), len(turns), why)
