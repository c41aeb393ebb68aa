"""Which session plays which dialogue."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from session_notes import Turn

from session_notes_tools.replay.transcripts import Dialogue, dialogue_from

OBSERVER = "replay"
"""Whose notes a replay writes and reads."""

KEPT_TURNS = 2000
"""How many turns of a transcript a sidecar keeps, by the contract."""


@dataclass(frozen=True, slots=True)
class PlannedSession:
    """One session to play.

    Attributes:
        session_id: Its id, which no other session has, in this replay or another.
        marker: A word that each of its turns carries, and no turn of another session.
        dialogue: What is said in it.
    """

    session_id: str
    marker: str
    dialogue: Dialogue

    @property
    def turn_count(self) -> int:
        """How many turns it has."""
        return len(self.dialogue.turns)

    @property
    def transcript(self) -> tuple[Turn, ...]:
        """Its turns as they are appended."""
        return tuple(
            Turn(turn.speaker, turn.text, extra={"marker": self.marker, "slots": sorted(turn.slots)})
            for turn in self.dialogue.turns
        )

    def as_json(self) -> dict[str, Any]:
        """For the program that plays it."""
        turns = [{"speaker": turn.speaker, "text": turn.text, "slots": turn.slots} for turn in self.dialogue.turns]
        dialogue = {"dialogue_id": self.dialogue.dialogue_id, "turns": turns}
        return {"session_id": self.session_id, "marker": self.marker, "dialogue": dialogue}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PlannedSession:
        """What `as_json` made."""
        return cls(content["session_id"], content["marker"], dialogue_from(content["dialogue"]))


def planned(dialogues: Sequence[Dialogue], sessions: int, replay_id: str) -> list[PlannedSession]:
    """As many sessions as asked for; dialogues are played again, under other ids, where there are not enough."""
    return [
        PlannedSession(session_id, hashlib.sha256(session_id.encode()).hexdigest()[:12], dialogues[i % len(dialogues)])
        for i in range(sessions)
        for session_id in [f"replay-{replay_id}-{i + 1:04d}"]
    ]
