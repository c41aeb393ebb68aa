"""Request validation. A check collects all faults under the paths of their fields, and raises them together."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable
from datetime import timedelta
from itertools import chain, islice
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from session_notes.v1.notes_pb2 import Notes
from session_notes.v1.turn_pb2 import Turn

from session_notes_server.contract import DEFAULT_OBSERVER, is_id
from session_notes_server.rpc import errors

MAX_DEPTH = 16
MAX_NAME_BYTES = 256
MAX_ENTRIES = 5000
"""Maximum turns, fields or names in a request. They block the store for several milliseconds."""
MAX_REASON_BYTES = 4096
# The largest integer up to which JSON numbers (RFC 8259, section 6) and the numbers of the store's scripts are exact.
MAX_EXACT = 2**53 - 1
MAX_SPAN = timedelta(days=36525)

# The ranges in google/protobuf/timestamp.proto and duration.proto. JSON cannot represent values outside of them.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
_MAX_DURATION_SECONDS = 315_576_000_000
# Values checked, in about a millisecond, before other calls may run.
_VALUES_PER_TURN = 1000


class Check:
    """The validation of one request.

    Attributes:
        at: Path prefix of the fields that are checked next, such as `requests[3].` in a batch.
    """

    def __init__(self) -> None:
        self.at = ""
        self._violations: list[tuple[str, str]] = []
        self._checked = 0

    def done(self) -> None:
        """Raise a StatusError with all faults, if any: INVALID_ARGUMENT."""
        if self._violations:
            raise errors.invalid_fields(self._violations)

    def wrong(self, field: str, description: str) -> None:
        """Record a fault of a field."""
        self._violations.append((self.at + field, description))

    def size(self, field: str, value: Message | str | bytes, limit: int) -> None:
        """Check the size in bytes. An oversized value raises immediately, because the limit bounds the cost of checks.

        Raises:
            StatusError: RESOURCE_EXHAUSTED, with the limit.
        """
        if isinstance(value, Message):
            actual = value.ByteSize()
        else:
            actual = len(value) if isinstance(value, bytes) else len(value.encode())
        if actual > limit:
            raise errors.too_large(self.at + field, limit=limit, actual=actual)

    def entries(self, field: str, entries: Collection[Any], limit: int = MAX_ENTRIES) -> None:
        """Check the number of entries. Too many raise immediately, as in `size`."""
        if (actual := len(entries)) > limit:
            raise errors.too_large(self.at + field, limit=limit, actual=actual, unit="entries")

    def session_id(self, value: str) -> str:
        """Check the id of a session, which is required."""
        self._id("session_id", value)
        return value

    def observer(self, value: str) -> str:
        """Check the name of an observer, and return it or the default observer's."""
        if not value:
            return DEFAULT_OBSERVER
        self._id("observer", value)
        return value

    def run_id(self, value: str, *, required: bool = False) -> str:
        """Check the id of a run, which may be empty unless required."""
        if value or required:
            self._id("run_id", value)
        return value

    def append_id(self, value: str) -> str:
        """Check the id of an append, which may be empty."""
        if value:
            self._id("append_id", value)
        return value

    def _id(self, field: str, value: str) -> None:
        if not value:
            self.wrong(field, "is required")
        elif not is_id(value):
            self.wrong(field, "must be 1 to 256 bytes of printable ASCII without space, '{' or '}'")

    def count(self, field: str, message: Message, path: str = "") -> int | None:
        """Check an optional turn, count or version, which ranges from 0 to 2^53 - 1."""
        if not message.HasField(field):
            return None
        value: int = getattr(message, field)
        if not 0 <= value <= MAX_EXACT:
            self.wrong(path + field, "must be from 0 to 2^53 - 1")
        return value

    def page_size(self, value: int, *, default: int, maximum: int) -> int:
        """Check a page size, and return it, or the default for 0, capped at the maximum."""
        if value < 0:
            self.wrong("page_size", "must not be negative")
        return min(value or default, maximum)

    def bound(self, field: str, message: Message) -> timedelta | None:
        """Check an optional duration that serves as a bound, which must not be negative."""
        if not message.HasField(field):
            return None
        duration: Duration = getattr(message, field)
        seconds, nanos = duration.seconds, duration.nanos
        if abs(seconds) > _MAX_DURATION_SECONDS or abs(nanos) > 999_999_999 or seconds * nanos < 0:
            self.wrong(field, "is not a valid Duration")
            return None
        if seconds < 0 or nanos < 0:
            self.wrong(field, "must not be negative")
            return None
        return timedelta(seconds=seconds, microseconds=-(-nanos // 1000))  # Rounded up, so that 1 ns is not 0.

    def lifetime(self, field: str, message: Message) -> timedelta | None:
        """Check an optional duration after which something expires: above 0 and at most 100 years."""
        span = self.bound(field, message)
        if span is not None and not timedelta(0) < span <= MAX_SPAN:
            self.wrong(field, "must be above 0 and at most 100 years")
        return span

    async def notes(self, notes: Notes) -> None:
        """Check the notes in the field `notes`."""
        for share in notes.coverage.values():
            if not 0 <= share <= 1:  # True for NaN.
                self.wrong("notes.coverage", "must be from 0 to 1")
                break
        for index, issue in enumerate(notes.issues):
            if not 0 <= issue.turn <= MAX_EXACT:  # An absent turn reads as 0.
                self.count("turn", issue, f"notes.issues[{index}].")
        if notes.HasField("extra"):
            await self.json("notes.extra", notes.extra)

    async def turns(self, turns: Collection[Turn], limit: int) -> None:
        """Check the turns in the field `turns`, of at most `limit` bytes each."""
        for index, turn in enumerate(turns):
            path = f"turns[{index}]"
            self.size(path, turn, limit)
            if turn.HasField("time"):
                self._timestamp(f"{path}.time", turn.time)
            if turn.HasField("extra"):
                await self.json(f"{path}.extra", turn.extra)
            await self._yield_after(1)

    def _timestamp(self, field: str, time: Timestamp) -> None:
        if not (_FIRST_SECOND <= time.seconds <= _LAST_SECOND and 0 <= time.nanos <= 999_999_999):
            self.wrong(field, "is not a valid Timestamp")

    def names(self, field: str, names: Collection[str]) -> None:
        """Check names of session fields."""
        if not all(1 <= len(name.encode()) <= MAX_NAME_BYTES for name in names):
            self.wrong(field, f"must have names of 1 to {MAX_NAME_BYTES} bytes")

    async def json(self, field: str, root: Struct | Value) -> None:
        """Check a JSON-like value: it must survive a round trip through JSON unchanged."""
        values: Iterable[Value] = _children(root) if isinstance(root, Struct) else [root]
        depth = int(isinstance(root, Struct))
        while True:
            below: list[Struct | ListValue] = []
            values = iter(values)
            while batch := list(islice(values, _VALUES_PER_TURN)):
                for value in batch:
                    kind = value.WhichOneof("kind")
                    if kind is None:
                        return self.wrong(field, "must set the kind of every value")
                    if kind == "number_value":
                        if not math.isfinite(value.number_value):
                            return self.wrong(field, "must not contain NaN or infinity")
                        if abs(value.number_value) > MAX_EXACT:
                            return self.wrong(field, "must not contain numbers beyond 2^53 - 1; send them as strings")
                    elif kind in {"struct_value", "list_value"}:
                        below.append(getattr(value, kind))
                await self._yield_after(len(batch))
            depth += 1
            if not below:
                return None
            if depth > MAX_DEPTH:
                return self.wrong(field, f"must not be nested deeper than {MAX_DEPTH}")
            values = chain.from_iterable(map(_children, below))

    async def _yield_after(self, checked: int) -> None:
        """Count checked values, and let other calls run after every thousand."""
        self._checked += checked
        if self._checked >= _VALUES_PER_TURN:
            self._checked = 0
            await asyncio.sleep(0)


def _children(node: Struct | ListValue) -> Iterable[Value]:
    return node.fields.values() if isinstance(node, Struct) else node.values
