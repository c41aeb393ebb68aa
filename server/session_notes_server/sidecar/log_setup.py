"""Logging to stderr: a line for each change of state and, on request, a line for each call.

A line is text for people, or one JSON object for programs. No line contains user data, the id of a session or run, or a
secret.

A thread writes the lines, so that a blocked stderr (a full pipe without a reader) does not block calls. Up to
BUFFER_BYTES of lines are queued. Further lines are dropped, and one line reports their number once stderr accepts lines
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

# Optional fields of a JSON line, given to the logger as `extra`.
_FIELDS = ("method", "code", "duration_ms", "error_id")

BUFFER_BYTES = 1 << 20
WRITE_SECONDS, RETRY_SECONDS = 0.05, 10.0
"""The time that a log call waits for its line to be written, which keeps lines and actions in order. If that wait times
out, log calls do not wait at all during the next RETRY_SECONDS."""

EXIT_SECONDS = 1.0
"""The limit on a final flush, and on a wait for a blocked stdout."""

STDOUT, STDERR = 1, 2


def configure(*, verbose: bool, log_format: LogFormat = LogFormat.TEXT, process: str = "") -> None:
    """Set up logging for this process.

    Args:
        verbose: Whether to log at debug level.
        log_format: The format of the lines.
        process: The name of this process in each line, if the sidecar has several.
    """
    handler = _Handler()
    if log_format is LogFormat.JSON:
        handler.setFormatter(_JSONFormatter(process))
        # Python's own warnings must be JSON lines too.
        logging.captureWarnings(True)
    else:
        handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)-7s {process and process + ': '}%(message)s"))
    handler.addFilter(_is_relevant)
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if verbose else logging.INFO)
    # At debug level, gRPC and asyncio log only their own internals.
    for name in ("grpc", "asyncio"):
        logging.getLogger(name).setLevel(logging.INFO)
    _output.start()


def print_lines(lines: Sequence[str]) -> None:
    """Write lines to stdout after the lines logged so far, without waiting for a reader."""
    for line in lines:
        _output.put(STDOUT, _encode(line))


def flush() -> None:
    """Wait until all lines are written, for at most EXIT_SECONDS."""
    _output.flush()


class _Output:
    """A queue of lines for stdout and stderr, written in order by a thread.

    Attributes:
        lost: The number of dropped lines that have not been reported yet.
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
        """Start the thread unless it runs already."""
        if not self._thread.is_alive():
            self._thread.start()
            atexit.register(self.flush)

    def put(self, stream: int, line: bytes) -> None:
        """Queue a line, or drop it if the queue is full."""
        with self._changed:
            # Once full, the queue accepts nothing until it is empty, so that the report on dropped lines is written in
            # their place.
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
        """Wait until the queue is empty, for at most EXIT_SECONDS."""
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
            for stream, group in _grouped(lines):
                written = _write_all(stream, b"".join(group))
                with self._changed:
                    self._size -= sum(map(len, group))
                    self.lost += 0 if written else len(group)
            with self._changed:
                if self._lines:
                    continue
                lost = self.lost
            reported = lost and _write_all(STDERR, _loss_report(lost))
            with self._changed:
                self.lost -= lost if reported else 0
                self._full = bool(self._full and reported and self.lost)
                self._changed.notify_all()


class _JSONFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, logger, message and the fields that apply.

    Args:
        process: The name of this process, if the sidecar has several.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = {"process": process} if process else {}

    def format(self, record: logging.LogRecord) -> str:
        """Implement logging.Formatter."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self._process,
            **{name: record.__dict__[name] for name in _FIELDS if name in record.__dict__},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _is_relevant(record: logging.LogRecord) -> bool:
    error_type = record.exc_info[0] if record.exc_info else None
    name = error_type.__name__ if error_type else ""
    # grpc.aio logs a traceback for every call that its caller cancels, which a voice agent does at every interruption.
    if name == "ExecuteBatchError":
        return False
    # It also logs metadata that is not UTF-8, which can be a token with a typing error.
    return name != "UnicodeDecodeError" or not record.name.startswith("grpc.")


class _Handler(logging.Handler):
    """Queues records for stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Implement logging.Handler."""
        try:
            _output.put(STDERR, _encode(self.format(record)))
        except Exception:
            self.handleError(record)


_output = _Output()


def _loss_report(lost: int) -> bytes:
    text = "dropped %d log lines, because stderr did not accept them"
    record = logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (lost,), None)
    handlers = (handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler))
    return b"".join(_encode(handler.format(record)) for handler in handlers)


def _encode(line: str) -> bytes:
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    return f"{line}\n".encode(encoding, "backslashreplace")


def _grouped(lines: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, list[bytes]]]:
    """Group lines into atomic writes to a pipe, so that lines of several processes are not mixed."""
    group, size, group_stream = list[bytes](), 0, STDERR
    for stream, line in lines:
        if group and (stream != group_stream or size + len(line) > select.PIPE_BUF):
            yield group_stream, group
            group, size = [], 0
        group.append(line)
        size, group_stream = size + len(line), stream
    if group:
        yield group_stream, group


def _write_all(stream: int, data: bytes) -> bool:
    """Write data to a stream. Wait for stderr without a limit, and for stdout at most EXIT_SECONDS.

    Returns:
        Whether all data was written.
    """
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    while data:
        if not poll.poll(EXIT_SECONDS * 1000) and stream == STDOUT:
            return False
        try:
            data = data[os.write(stream, data[: select.PIPE_BUF]) :]
        except BlockingIOError:
            continue
        except OSError:  # The pipe's reader is gone, or the disk is full.
            return False
    return True
