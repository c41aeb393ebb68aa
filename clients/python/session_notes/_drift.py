"""Correction of a reading's drift for turns that are still pending in this process.

The sidecar computes drift from the turns that it has stored, including those of other writers. The correction adds the
turns that recorders of this process have not stored yet. A caller's `current_turn` is only a lower bound: it may come
from a recorder, whose count is too low until it knows the number of stored turns.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from session_notes import _pending
from session_notes._calls import Call
from session_notes._results import Reading
from session_notes._types import StaleReason


def counting_pending(call: Call[Reading], target: str) -> Call[Reading]:
    """Make a GetNotes call count pending turns in its reading, and return the call."""
    correction = _correction(target, call.request)
    if correction is not None:
        read, corrected = call.read, correction.apply
        call.read = lambda message: corrected(read(message))
    return call


def batch_counting_pending(call: Call[list[Reading]], target: str) -> Call[list[Reading]]:
    """Make a BatchGetNotes call count pending turns in its readings, and return the call."""
    request: Any = call.request
    corrections = [_correction(target, entry) for entry in request.requests]
    if any(corrections):
        read = call.read
        call.read = lambda message: [
            correction.apply(reading) if correction else reading
            for reading, correction in zip(read(message), corrections, strict=True)
        ]
    return call


class _Correction:
    """The correction of one reading. Removes `current_turn`, so that the sidecar counts from the stored turns."""

    def __init__(self, target: str, request: Any, counts: _pending.TurnCounts) -> None:
        self._target = target
        self._session_id: str = request.session_id
        self._counts = counts
        self._max_turns_behind = request.max_turns_behind if request.HasField("max_turns_behind") else None
        self._min_current_turn: int = request.current_turn
        request.ClearField("current_turn")

    def apply(self, reading: Reading) -> Reading:
        """Return the reading with corrected `turns_behind`, `fresh` and `stale_because`."""
        observed = reading.observed_turn
        if observed is None:
            return reading
        stored = observed + (reading.turns_behind or 0)
        before = self._counts
        now = _pending.turn_counts(self._target, self._session_id) or before
        if now.stored is not None and (now.stored != before.stored or now.uncertain or before.uncertain):
            # Some pending turns may be stored by now. The count is exact unless another writer has just appended, too.
            current = max(stored, now.stored + now.pending)
        else:
            current = stored + before.pending
        behind = max(current, self._min_current_turn) - observed
        reading = dataclasses.replace(reading, turns_behind=max(behind, 0))
        if self._max_turns_behind is None or behind <= self._max_turns_behind:
            return reading
        others = set(reading.stale_because) - {StaleReason.TURNS_UNKNOWN}
        reasons = tuple(reason for reason in StaleReason if reason in others | {StaleReason.TURNS_BEHIND})
        return dataclasses.replace(reading, fresh=False, stale_because=reasons)


def _correction(target: str, request: Any) -> _Correction | None:
    """Return the correction for a request, or None if no turns of its session are pending."""
    if not _pending.has_holders(target):
        return None
    counts = _pending.turn_counts(target, request.session_id)
    if counts is None or not counts.pending or (request.HasField("current_turn") and counts.stored is not None):
        return None
    return _Correction(target, request, counts)
