"""The input for the checks of the promises: the indexed history of one session."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from session_notes_server.store.limits import TRANSCRIPT_TURNS

from session_notes_tools.replay.analysis import analyse
from session_notes_tools.replay.history import ListedRun, SessionHistory
from session_notes_tools.replay.records import NotesRead, NotesWrite, Sighting, Write, WriteKind, notes_json


class Case:
    """The history of one session, indexed for the promises."""

    def __init__(self, history: SessionHistory) -> None:
        self.history = history
        self.transcript = history.plan.transcript if history.plan else ()
        self._expected_notes: dict[int, dict[str, Any]] = {}

    @cached_property
    def first_writes(self) -> Mapping[str, NotesWrite]:
        """The first write of each run's notes, by run id."""
        return {write.run_id: write for write in self.history.of(NotesWrite) if not write.repeated}

    @cached_property
    def listed(self) -> Mapping[str, ListedRun]:
        """The stored runs, by id."""
        return {run.run_id: run for run in self.history.read_back.runs} if self.history.read_back else {}

    @cached_property
    def all_reads(self) -> list[NotesRead]:
        """Every read that got a response, including the one at the end."""
        read_back = self.history.read_back
        reads = [*self.history.of(NotesRead), *([read_back.current] if read_back and read_back.current else [])]
        return [read for read in reads if read.has_response]

    @cached_property
    def writes(self) -> Mapping[WriteKind, list[Write]]:
        """Every write, by kind."""
        writes: dict[WriteKind, list[Write]] = {"turn": [], "field": [], "run": [], "notes": []}
        for write in self.history.of(Write):
            writes[write.kind].append(write)
        writes["notes"] += [
            Write(run.session_id, "notes", [run.run_id], run.sent, run.received, "acknowledged", run.number)
            for run in self.first_writes.values()
            if run.outcome == "accepted"
        ]
        return writes

    @cached_property
    def sightings(self) -> list[Sighting]:
        """Every sighting, including the run numbers of the notes that were read."""
        reads = (Sighting(read.session_id, "notes", read.sent, read.number or 0) for read in self.all_reads)
        return [*self.history.of(Sighting), *reads]

    @cached_property
    def stored(self) -> Mapping[WriteKind, list[tuple[str, int]]]:
        """The names in the store, with their turn or run numbers.

        Fields have no numbers. A planned session has no field names either, since every turn sets its fields again.
        """
        read_back = self.history.read_back
        if read_back is None:
            return {}
        first_turn = read_back.turn_count - len(read_back.turns) + 1
        names = [str(extra.get("name", text)) for _, text, extra in read_back.turns]
        return {
            "turn": list(zip(names, range(first_turn, first_turn + len(names)), strict=True)),
            "field": [] if self.history.plan else [(name, 0) for name in read_back.fields],
            "run": [(run.run_id, run.number) for run in read_back.runs],
        }

    @cached_property
    def oldest_stored(self) -> Mapping[WriteKind, int]:
        """The lowest number of each kind that the store retains."""
        read_back = self.history.read_back
        if read_back is None:
            return {}
        newest_run = max((run.number for run in read_back.runs), default=0)
        return {
            "turn": read_back.turn_count - TRANSCRIPT_TURNS + 1,
            "field": 0,
            "run": newest_run - read_back.runs_limit + 1,
        }

    def foreign_part(
        self, run_id: str | None, observed_turn: int | None, notes: Mapping[str, Any] | None
    ) -> str | None:
        """Describe the parts of a run's notes that do not follow from its snapshot; None if all of them do."""
        if notes is None or run_id is None:
            return "ready without notes or without a run"
        if observed_turn is None or not 0 < observed_turn <= len(self.transcript):
            return f"{run_id} claims to have seen {observed_turn} turns of {len(self.transcript)}"
        if observed_turn not in self._expected_notes:
            snapshot = self.transcript[:observed_turn]
            self._expected_notes[observed_turn] = notes_json(analyse(self.history.session_id, "", snapshot))
        expected = self._expected_notes[observed_turn]
        expected["extra"]["run_id"] = run_id
        if notes == expected:
            return None
        parts = ", ".join(name for name, part in expected.items() if notes.get(name) != part) or "an unexpected part"
        return f"{run_id} on {observed_turn} turns: {parts} of another session, run or snapshot"
