"""What the observer of a replay makes of a transcript: cheap, and known beforehand for anybody who has the transcript.

So whoever reads notes can tell whether they are about this session and nothing else, about a whole snapshot of it, and
unharmed: he analyses what was played himself and compares.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence

from session_notes import Issue, Notes, Severity, Turn

SLOTS_PER_TOPIC = 8
"""With that many slots known, a topic counts as covered."""


def analyse(session_id: str, run_id: str, transcript: Sequence[Turn]) -> Notes:
    """The notes of one run on the transcript it was given."""
    slots = _slots(transcript[-1]) if transcript else []
    known = Counter(slot.partition(".")[0] or slot for slot in slots)
    coverage = {topic: min(1.0, count / SLOTS_PER_TOPIC) for topic, count in known.items()}
    markers = sorted({_marker(turn) for turn in transcript})
    return Notes(
        coverage=coverage,
        issues=_open_question(transcript),
        follow_up_suggestions=[f"Say more about {topic}" for topic, _ in sorted(known.items(), key=_rarest)[:2]],
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
    """Another one for a transcript that differs anywhere."""
    said = [[turn.speaker, turn.text, _marker(turn), _slots(turn)] for turn in transcript]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _marker(turn: Turn) -> str:
    # A turn that somebody else smuggled in has none, and is to be told of, not to be stumbled over.
    return str(turn.extra.get("marker", "unmarked"))


def _slots(turn: Turn) -> list[str]:
    slots = turn.extra.get("slots")
    return list(map(str, slots)) if isinstance(slots, list) else []


def _open_question(transcript: Sequence[Turn]) -> list[Issue]:
    if transcript and transcript[-1].speaker == "user" and "?" in transcript[-1].text:
        return [Issue("The user waits for an answer", Severity.WARNING, turn=len(transcript))]
    return []


def _rarest(known: tuple[str, int]) -> tuple[int, str]:
    return known[1], known[0]
