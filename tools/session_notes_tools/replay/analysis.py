"""The observer's analysis in a replay: cheap, deterministic, and unique to its session, run and snapshot.

It reads only the new turns, and continues the current notes. The result is that of an analysis of the whole transcript.
Repeating it on the played transcript therefore reveals damaged notes, notes of another session, run or snapshot, and a
window with a turn too many or too few.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

from session_notes import Issue, Notes, Severity, Turn

SLOTS_PER_TOPIC = 8
"""The number of filled slots at which a topic counts as covered."""


def analyse(session_id: str, run_id: str, new_turns: Sequence[Turn], previous: Notes | None = None) -> Notes:
    """Return the notes of a run.

    Args:
        session_id: The session.
        run_id: The run.
        new_turns: The turns that the previous notes have not seen.
        previous: The previous notes. None: there are none.
    """
    if previous is not None and not new_turns:
        return replace(previous, extra={**previous.extra, "run_id": run_id})
    before = previous.extra if previous is not None else {}
    slots = _slots(new_turns[-1]) if new_turns else []
    topics = Counter(slot.partition(".")[0] or slot for slot in slots)
    rarest = sorted(topics, key=lambda topic: (topics[topic], topic))
    markers = sorted({*map(str, _list(before.get("markers"))), *map(_marker, new_turns)})
    turns = int(_number(before.get("turns"))) + len(new_turns)
    return Notes(
        coverage={topic: min(1.0, count / SLOTS_PER_TOPIC) for topic, count in topics.items()},
        issues=_open_question(new_turns, turns),
        follow_up_suggestions=[f"Ask more about {topic}" for topic in rarest[:2]],
        summary=f"{' '.join(markers)}: {turns} turns, {len(slots)} slots",
        extra={
            "session_id": session_id,
            "run_id": run_id,
            "markers": markers,
            "turns": turns,
            "checksum": reduce(_checksum, new_turns, str(before.get("checksum", ""))),
        },
    )


def _checksum(before: str, turn: Turn) -> str:
    """Return a checksum of all turns so far, which differs if any turn does."""
    content = [before, turn.speaker, turn.text, _marker(turn), _slots(turn)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _marker(turn: Turn) -> str:
    # A turn from another client has no marker. It must be reported as a broken promise, not crash the observer.
    return str(turn.extra.get("marker", "unmarked"))


def _slots(turn: Turn) -> list[str]:
    return list(map(str, _list(turn.extra.get("slots"))))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _number(value: object) -> float:
    # Notes of another client have other content. That, too, must be reported.
    return value if isinstance(value, int | float) else 0


def _open_question(transcript: Sequence[Turn], count: int) -> list[Issue]:
    if transcript and transcript[-1].speaker == "user" and "?" in transcript[-1].text:
        return [Issue("The user is waiting for an answer", Severity.WARNING, turn=count)]
    return []
