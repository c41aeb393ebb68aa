"""The transcripts to play: JSON lines, a dialogue each.

    {"dialogue_id": "1", "services": ["Trains_1"], "turns": [
        {"speaker": "user", "text": "To Oslo, please.", "slots": {"Trains_1.to": "Oslo"}}]}

`slots` is what is known after the turn: slot → value so far. Keys not named here do not matter.
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
    """One turn: who said what, and the slots known after it."""

    speaker: str
    text: str
    slots: Slots


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One conversation from its first turn to its last."""

    dialogue_id: str
    turns: tuple[SpokenTurn, ...]


class BadTranscripts(Exception):
    """A file that cannot be played. Its text says where and why."""


def read_dialogues(path: Path) -> list[Dialogue]:
    """All dialogues of a file; empty lines do not matter.

    Raises:
        BadTranscripts: The file cannot be read, holds no dialogue, or a line of it is none.
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
                # Not what the line says: a transcript is what people said.
                raise BadTranscripts(f"{path}, line {number}: {_reason(error)}") from None
    if not dialogues:
        raise BadTranscripts(f"{path}: no dialogue in it")
    return dialogues


def dialogue_from(content: Any) -> Dialogue:
    """A dialogue from its JSON.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(content, dict):
        raise ValueError("must be an object")
    dialogue_id, turns = content.get("dialogue_id"), content.get("turns")
    if not isinstance(dialogue_id, str):
        raise ValueError('"dialogue_id" must be a text')
    if not isinstance(turns, list) or not turns:
        raise ValueError('"turns" must be a list with at least one turn')
    return Dialogue(dialogue_id, tuple(_turn(turn, f"turn {number}") for number, turn in enumerate(turns, start=1)))


def _turn(content: Any, where: str) -> SpokenTurn:
    if not isinstance(content, dict):
        raise ValueError(f"{where} must be an object")
    for name in ("speaker", "text"):
        if not isinstance(content.get(name), str):
            raise ValueError(f'{where}: "{name}" must be a text')
    slots = content.get("slots", {})
    if not isinstance(slots, dict) or not all(isinstance(value, str | int | float) for value in slots.values()):
        raise ValueError(f'{where}: "slots" must be an object of texts, numbers and booleans')
    if not all(0 < len(name.encode()) <= 256 for name in slots):
        raise ValueError(f"{where}: the name of a slot has 1 to 256 bytes")
    # What JSON can escape and UTF-8 cannot say: half of a surrogate pair.
    json.dumps([content["speaker"], content["text"], slots], ensure_ascii=False).encode()
    return SpokenTurn(content["speaker"], content["text"], slots)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _reason(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            return f"no JSON ({error.msg} at column {error.colno})"
        case UnicodeError():
            return "not UTF-8"
        case RecursionError():
            return "nested too deep"
    return str(error)
