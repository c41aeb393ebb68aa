"""The connection to a language model, for both programs: any endpoint that speaks OpenAI's chat completions."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import OpenAI


def connect(*, timeout: float | None = None, max_retries: int = 2) -> "OpenAI":
    """A client that finds its endpoint in `OPENAI_API_KEY` and `OPENAI_BASE_URL`. Ends the program where it cannot.

    Args:
        timeout: How many seconds an answer may take; None: as each call says.
        max_retries: How often a call is tried again.
    """
    try:
        from openai import OpenAI, OpenAIError
    except ModuleNotFoundError as error:
        sys.exit(
            f"SESSION_NOTES_MODEL is set, but the Python package {error.name} is missing. Install the extra openai: "
            ".venv/bin/pip install --editable '.[server,openai]'"
        )
    try:
        return OpenAI(timeout=timeout, max_retries=max_retries)
    except OpenAIError as error:
        sys.exit(f"SESSION_NOTES_MODEL is set, but the model cannot be asked: {error}")
