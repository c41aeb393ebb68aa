"""The observer's analysis in a replay: cheap, deterministic, and unique to its session, run and snapshot.

Repeating it on the played transcript reveals damaged notes, and notes of another session, run or snapshot.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from session_notes import Issue, Notes, Severity, Turn

SLOTS_PER_TOPIC = 8
"""The number of filled slots at which a topic counts as covered."""


def analyse(session_id: str, run_id: str, transcript: Sequence[Turn]) -> Notes:
    """Return the notes of a run on its snapshot of the transcript."""
    slots = _slots(transcript[-1]) if transcript else []
    topics = Counter(slot.partition(".")[0] or slot for slot in slots)
    rarest = sorted(topics, key=lambda topic: (topics[topic], topic))
    markers = sorted({_marker(turn) for turn in transcript})
    return Notes(
        coverage={topic: min(1.0, count / SLOTS_PER_TOPIC) for topic, count in topics.items()},
        issues=_open_question(transcript),
        follow_up_suggestions=[f"Ask more about {topic}" for topic in rarest[:2]],
        summary=f"{' '.join(markers)}: {len(transcript)} turns, {len(slots)} slots",
        extra={
            "session_id": session_id,
            "run_id": run_id,
            "markers": markers,
            "turns": len(transcript),
            "checksum": checksum(transcript),
        },
    )


def checksum(transcript: Sequence[Turn]) -> str:
    """Return a checksum that differs if any turn does."""
    content = [[turn.speaker, turn.text, _marker(turn), _slots(turn)] for turn in transcript]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _marker(turn: Turn) -> str:
    # A turn from another client has no marker. It must be reported as a broken promise, not crash the observer.
    return str(turn.extra.get("marker", "unmarked"))


def _slots(turn: Turn) -> list[str]:
    slots = turn.extra.get("slots")
    return list(map(str, slots)) if isinstance(slots, list) else []


def _open_question(transcript: Sequence[Turn]) -> list[Issue]:
    if transcript and transcript[-1].speaker == "user" and "?" in transcript[-1].text:
        return [Issue("The user is waiting for an answer", Severity.WARNING, turn=len(transcript))]
    return []
