"""The plan of a replay: the dialogue that each session plays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from session_notes import Turn

from session_notes_tools.replay.transcripts import Dialogue, dialogue_from

OBSERVER = "replay"
"""The name of the observer whose notes are written and read."""


@dataclass(frozen=True, slots=True)
class PlannedSession:
    """A session to play.

    Attributes:
        session_id: Its id, unique across replays.
        marker: A word in each of its turns, and in no turn of another session.
        dialogue: The dialogue to play.
    """

    session_id: str
    marker: str
    dialogue: Dialogue

    @property
    def turn_count(self) -> int:
        """The number of turns to play."""
        return len(self.dialogue.turns)

    @property
    def transcript(self) -> tuple[Turn, ...]:
        """The turns as the primary appends them."""
        return tuple(
            Turn(turn.speaker, turn.text, extra={"marker": self.marker, "name": str(name), "slots": sorted(turn.slots)})
            for name, turn in enumerate(self.dialogue.turns, start=1)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the plan as JSON for the primary's process."""
        turns = [{"speaker": turn.speaker, "text": turn.text, "slots": turn.slots} for turn in self.dialogue.turns]
        dialogue = {"dialogue_id": self.dialogue.dialogue_id, "turns": turns}
        return {"session_id": self.session_id, "marker": self.marker, "dialogue": dialogue}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> PlannedSession:
        """Return the plan that `as_json` encoded."""
        return cls(content["session_id"], content["marker"], dialogue_from(content["dialogue"]))


def plan_sessions(dialogues: Sequence[Dialogue], sessions: int, replay_id: str) -> list[PlannedSession]:
    """Plan a number of sessions, cycling through the dialogues if there are fewer."""
    return [
        PlannedSession(session_id, hashlib.sha256(session_id.encode()).hexdigest()[:12], dialogues[i % len(dialogues)])
        for i in range(sessions)
        for session_id in [f"replay-{replay_id}-{i + 1:04d}"]
    ]
