"""Framework-independent helpers for messages: fields, texts, and the position after a match."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")


def field_of(item: Any, name: str) -> Any:
    """Return a field of a mapping or an object; None if it has no such field."""
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def output_text(output: Any) -> str:
    """Return an agent's output as text: a string unchanged, structured output as JSON, None as the empty string."""
    if output is None or isinstance(output, str):
        return output or ""
    from pydantic_core import to_json  # a dependency of every framework, but not of this client

    return to_json(output, fallback=str).decode()


def content_text(content: Any, separator: str) -> str:
    """Return the text of a message's content in OpenAI's format, which may be a string or parts, including refusals."""
    if isinstance(content, str):
        return content
    parts = [field_of(part, "text") or field_of(part, "refusal") for part in content or ()]
    return separator.join(part for part in parts if isinstance(part, str) and part)


def after_last(items: Sequence[Item], matches: Callable[[Item], bool]) -> int:
    """Return the position after the last matching item; 0 if none matches."""
    return next((end for end in range(len(items), 0, -1) if matches(items[end - 1])), 0)
