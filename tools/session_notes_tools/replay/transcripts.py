"""Transcripts to play: JSON lines, one dialogue per line.

    {"dialogue_id": "1", "services": ["Trains_1"], "turns": [
        {"speaker": "user", "text": "To Oslo, please.", "slots": {"Trains_1.to": "Oslo"}}]}

`slots` maps each slot filled so far to its value. Other keys are ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

Slots = Mapping[str, str | float | bool]


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """A turn: speaker, text, and the slots filled after it."""

    speaker: str
    text: str
    slots: Slots


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation from its first turn to its last."""

    dialogue_id: str
    turns: tuple[SpokenTurn, ...]


class BadTranscripts(Exception):
    """An unusable transcript file. The message gives the line and the reason."""


def read_dialogues(path: Path) -> list[Dialogue]:
    """Read the dialogues of a file, skipping empty lines.

    Raises:
        BadTranscripts: If the file is unreadable or has no dialogue, or a line is not a dialogue.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise BadTranscripts(f"{path}: {error.strerror}") from None
    dialogues = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                dialogues.append(dialogue_from(json.loads(line.decode(), parse_constant=_no_constant)))
            except (ValueError, RecursionError) as error:
                # Never quote the line: transcripts are user data.
                raise BadTranscripts(f"{path}, line {number}: {_reason(error)}") from None
    if not dialogues:
        raise BadTranscripts(f"{path}: the file has no dialogue")
    return dialogues


def dialogue_from(content: Any) -> Dialogue:
    """Parse a dialogue from its JSON.

    Raises:
        ValueError: If it is not a dialogue.
    """
    if not isinstance(content, dict):
        raise ValueError("must be an object")
    dialogue_id, turns = content.get("dialogue_id"), content.get("turns")
    if not isinstance(dialogue_id, str):
        raise ValueError('"dialogue_id" must be a string')
    if not isinstance(turns, list) or not turns:
        raise ValueError('"turns" must be a list with at least one turn')
    return Dialogue(dialogue_id, tuple(_turn(turn, f"turn {number}") for number, turn in enumerate(turns, start=1)))


def _turn(content: Any, where: str) -> SpokenTurn:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be an object")
    for name in ("speaker", "text"):
        if not isinstance(content.get(name), str):
            raise ValueError(f'{where}: "{name}" must be a string')
    slots = content.get("slots", {})
    if not isinstance(slots, dict) or not all(isinstance(value, str | int | float) for value in slots.values()):
        raise ValueError(f'{where}: "slots" must be an object of strings, numbers and booleans')
    if not all(0 < len(name.encode()) <= 256 for name in slots):
        raise ValueError(f"{where}: a slot name must have 1 to 256 bytes")
    # JSON can escape half of a surrogate pair, which UTF-8 cannot encode.
    json.dumps([content["speaker"], content["text"], slots], ensure_ascii=False).encode()
    return SpokenTurn(content["speaker"], content["text"], slots)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _reason(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"not JSON ({error.msg} at column {error.colno})"
        case UnicodeError():
            return "not UTF-8"
        case RecursionError():
            return "nested too deeply"
    return str(error)
