"""LangChain's messages as turns, for LangGraph and for LangChain's agents."""

from collections.abc import Iterable, Mapping
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from session_notes import Turn
from session_notes.integrations._messages import after_last, field_of


def messages_in(content: Any) -> list[BaseMessage]:
    """Return the messages among the items of a state, in any form that LangChain accepts; skip everything else."""
    messages: list[BaseMessage] = []
    for item in content if isinstance(content, Iterable) else ():
        try:
            messages += [item] if isinstance(item, BaseMessage) else convert_to_messages([item])
        except Exception:  # noqa: S112 - the item is not a message
            continue
    return messages


def last_exchange(messages: list[BaseMessage]) -> list[tuple[Any, Turn]]:
    """Return the user's last messages and the answer to them, as turns with their message ids.

    Without an answer, the exchange is the user's messages alone.
    """
    answer = after_last(messages, is_from_user)
    return turns_from(messages, after_last(messages[:answer], lambda message: not _is_user_side(message)))


def turns_from(messages: list[BaseMessage], start: int) -> list[tuple[Any, Turn]]:
    """Return the messages from a position on as turns with their message ids, without tool calls and their results.

    The results at the very end are kept: a tool with `return_direct` has given the answer.
    """
    results = after_last(messages, lambda message: not isinstance(message, ToolMessage))
    spoken = [message for message in messages[start:results] if is_from_user(message) or is_from_model(message)]
    spoken += [message for message in messages[max(start, results) :] if field_of(message, "status") != "error"]
    return [(message.id, turn_of(message)) for message in spoken]


def is_from_user(message: BaseMessage) -> bool:
    """Return whether the user wrote this message, rather than the framework in the user's name."""
    if isinstance(message, ChatMessage):
        return message.role in ("user", "human")
    return isinstance(message, HumanMessage) and not message.additional_kwargs.get("lc_source")


def is_from_model(message: BaseMessage) -> bool:
    """Return whether the model wrote this message."""
    if isinstance(message, ChatMessage):
        return message.role in ("assistant", "ai")
    return isinstance(message, AIMessage)


def turn_of(message: BaseMessage) -> Turn:
    """Return a message as a turn of the user, or else of the primary; a refusal counts as text."""
    content, text = message.content, str(message.text)
    if isinstance(content, list):
        refusals = [part.get("refusal") for part in content if isinstance(part, Mapping)]
        text += "".join(refusal for refusal in refusals if isinstance(refusal, str))
    refusal = message.additional_kwargs.get("refusal")
    return Turn("user" if is_from_user(message) else "primary", text or (refusal if isinstance(refusal, str) else ""))


def _is_user_side(message: BaseMessage) -> bool:
    # System messages, and human messages that the framework wrote, may stand among the user's own.
    return isinstance(message, SystemMessage | HumanMessage) or is_from_user(message)
