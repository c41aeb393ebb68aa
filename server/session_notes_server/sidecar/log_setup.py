"""Logging: one line to stderr for every change of state, and one for every call when asked.

As text for people, or as one JSON object a line for programs. Whichever it is, no line holds what users said, an id of
a session or a run, or a secret.

Lines are written by a thread of their own, so that a stderr that blocks (a full pipe without a reader) does not block
calls. Up to BUFFER_BYTES wait for it; further lines are dropped, and counted in one line as soon as stderr takes lines
again.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from session_notes_server.settings import LogFormat

# What a line of JSON has where it applies: whoever logs gives it as `extra`.
_FIELDS = ("method", "code", "duration_ms", "error_id")

BUFFER_BYTES = 1 << 20
WRITE_SECONDS, RETRY_SECONDS = 0.05, 10.0
"""How long a caller waits for its line to be written, so that what it does next comes after it; and after what time it
waits again, once that was too long."""

EXIT_SECONDS = 1.0
"""How long the end of the process waits for a stderr that takes no lines."""

STDOUT, STDERR = 1, 2


def configure(*, verbose: bool, form: LogFormat = LogFormat.TEXT, who: str = "") -> None:
    """Set logging up for this process; `who` it is, where there are several."""
    handler = _Handler()
    if form is LogFormat.JSON:
        handler.setFormatter(_JSON(who))
        # Python's own warnings are lines too.
        logging.captureWarnings(True)
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {who and who + ': '}%(message)s"))
    handler.addFilter(_worth_telling)
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)
    # At debug, gRPC and asyncio tell of themselves alone.
    for name in ("grpc", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO)
    _output.start()


def print_lines(lines: Sequence[str]) -> None:
    """Write lines to stdout, after what is logged so far, without waiting for a reader."""
    for line in lines:
        _output.put(STDOUT, _encoded(line))


def flush() -> None:
    """Wait until all lines are written, for EXIT_SECONDS at most."""
    _output.flush()


class _Output:
    """Lines on their way to stdout and stderr, in the order they came in.

    Attributes:
        lost: Lines that were dropped, and are in no count yet.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[int, bytes]] = deque()
        self._size = 0
        self._full = False
        self._wait_from = 0.0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self.lost = 0

    def start(self) -> None:
        """Start to write, unless it has started already."""
        if not self._thread.is_alive():
            self._thread.start()
            atexit.register(self.flush)

    def put(self, stream: int, line: bytes) -> None:
        """Have a line written, or drop it where too many wait already."""
        with self._changed:
            # Once full, it takes nothing until it is empty: so the count of what is lost stands in its place.
            if self._full or self._size + len(line) > BUFFER_BYTES:
                self._full = True
                self.lost += 1
                self._changed.notify_all()
                return
            self._lines.append((stream, line))
            self._size += len(line)
            self._changed.notify_all()
            if time.monotonic() > self._wait_from and not self._changed.wait_for(self._is_empty, WRITE_SECONDS):
                self._wait_from = time.monotonic() + RETRY_SECONDS

    def flush(self) -> None:
        """Wait until nothing is left to write, for EXIT_SECONDS at most."""
        with self._changed:
            self._changed.wait_for(self._is_empty, EXIT_SECONDS)

    def _is_empty(self) -> bool:
        return not self._size and not self._full

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._full)
                lines = [*self._lines]
                self._lines.clear()
            for stream, group in _together(lines):
                written = _write_all(stream, b"".join(group))
                with self._changed:
                    self._size -= sum(map(len, group))
                    self.lost += 0 if written else len(group)
            with self._changed:
                if self._lines:
                    continue
                lost = self.lost
            reported = lost and _write_all(STDERR, _account_of(lost))
            with self._changed:
                self.lost -= lost if reported else 0
                self._full = bool(self._full and reported and self.lost)
                self._changed.notify_all()


class _JSON(logging.Formatter):
    """One object a line: time, level, logger and message in each, and what else applies.

    Args:
        who: This process, where there are several.
    """

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = {"process": who} if who else {}

    def format(self, record: logging.LogRecord) -> str:
        """Part of logging.Formatter."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._who,
            **{name: record.__dict__[name] for name in _FIELDS if name in record.__dict__},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _worth_telling(record: logging.LogRecord) -> bool:
    # gRPC logs a traceback whenever a caller left before its answer: in a voice agent, at every interruption.
    raised = record.exc_info[0] if record.exc_info else None
    return raised is None or raised.__name__ != "ExecuteBatchError"


class _Handler(logging.Handler):
    """Hands records over to be written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Part of logging.Handler."""
        try:
            _output.put(STDERR, _encoded(self.format(record)))
        except Exception:
            self.handleError(record)


_output = _Output()


def _account_of(lost: int) -> bytes:
    text = "lines of the log were dropped, since stderr did not take them: %d"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lost,), None)
    handlers = (handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler))
    return b"".join(_encoded(handler.format(record)) for handler in handlers)


def _encoded(line: str) -> bytes:
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    return f"{line}\n".encode(encoding, "backslashreplace")


def _together(lines: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """Group lines into what a pipe takes in one piece, so that other processes' lines do not get in between."""
    group, size, to = list[bytes](), 0, STDERR
    for stream, line in lines:
        if group and (stream != to or size + len(line) > select.PIPE_BUF):
            yield to, group
            group, size = [], 0
        group.append(line)
        size, to = size + len(line), stream
    if group:
        yield to, group


def _write_all(stream: int, data: bytes) -> bool:
    """Write to a stream and return whether it took all. Wait for stderr without a limit, for stdout EXIT_SECONDS."""
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    while data:
        if not poll.poll(EXIT_SECONDS * 1000) and stream == STDOUT:
            return False
        try:
            data = data[os.write(stream, data[: select.PIPE_BUF]) :]
        except BlockingIOError:
            continue
        except OSError:  # Its reader is gone, or its disk is full.
            return False
    return True
