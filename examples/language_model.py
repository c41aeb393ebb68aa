"""A client for a language model at any endpoint with OpenAI's chat completions."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import OpenAI


def connect(*, timeout: float | None = None, max_retries: int = 2) -> "OpenAI":
    """Return a client for the endpoint that `OPENAI_API_KEY` and `OPENAI_BASE_URL` select. Exit if that fails.

    Args:
        timeout: The time limit of a call, in seconds. None: each call sets its own.
        max_retries: The maximum number of retries per call.
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
        sys.exit(f"SESSION_NOTES_MODEL is set, but the model cannot be used: {error}")
