"""One session before the judge: its history, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.history import Read, SessionHistory, Written, notes_json
from session_notes_tools.replay.plan import KEPT_TURNS


class Case:
    """The history of one session, and what follows from it."""

    def __init__(self, history: SessionHistory) -> None:
        self.history = history
        self.transcript = history.plan.transcript
        self._expected: dict[int, dict[str, Any]] = {}

    @cached_property
    def first_writes(self) -> Mapping[str, Written]:
        """Run id → what was answered to its first write."""
        return {write.run_id: write for write in self.history.written if not write.repeated}

    @cached_property
    def all_reads(self) -> list[Read]:
        """Every read that was answered, the one at the very end included."""
        back = self.history.read_back
        reads = [*self.history.reads, *([back.current] if back and back.current else [])]
        return [read for read in reads if read.answered]

    def foreign(self, run_id: str | None, observed_turn: int | None, notes: Mapping[str, Any] | None) -> str | None:
        """What is wrong with notes of a run on the first `observed_turn` turns of this session."""
        if notes is None or run_id is None:
            return "ready, and no notes or no run"
        if observed_turn is None or not 0 < observed_turn <= len(self.transcript):
            return f"{run_id} says to have seen {observed_turn} turns of {len(self.transcript)}"
        if observed_turn not in self._expected:
            seen = self.transcript[max(0, observed_turn - KEPT_TURNS) : observed_turn]
            self._expected[observed_turn] = notes_json(analyse(self.history.plan.session_id, "", seen))
        expected = self._expected[observed_turn]
        expected["extra"]["run_id"] = run_id
        if notes == expected:
            return None
        differing = [name for name, part in expected.items() if notes.get(name) != part]
        return (
            f"{run_id} on {observed_turn} turns: {', '.join(differing) or 'something'} of another session, run or turn"
        )
