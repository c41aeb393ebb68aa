"""Tool calls and their results as turns, for integrations that record them on request."""

from typing import Any

from session_notes import Turn
from session_notes.integrations._messages import output_text

SPEAKER = "tool"
"""The speaker of these turns."""


def call_turn(name: Any, arguments: Any, call_id: Any) -> Turn:
    """Return the turn of a call, as `name(arguments)`."""
    return Turn(SPEAKER, f"{output_text(name)}({output_text(arguments)})", extra={"call_id": output_text(call_id)})


def result_turn(result: Any, call_id: Any) -> Turn:
    """Return the turn of a call's result: a string unchanged, anything else as JSON."""
    return Turn(SPEAKER, output_text(result), extra={"result_of": output_text(call_id)})
