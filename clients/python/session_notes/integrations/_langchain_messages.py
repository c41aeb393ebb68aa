"""Conversion of LangChain messages to turns, for the LangGraph and LangChain integrations."""

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
    """Return the messages in a state's list, in any form that LangChain accepts. Skip all other items."""
    messages: list[BaseMessage] = []
    for item in content if isinstance(content, Iterable) else ():
        try:
            messages += [item] if isinstance(item, BaseMessage) else convert_to_messages([item])
        except Exception:  # noqa: S112 - the item is not a message
            continue
    return messages


def last_exchange(messages: list[BaseMessage]) -> list[tuple[Any, Turn]]:
    """Return the user's last messages and the answer, as pairs of message id and turn.

    If there is no answer yet, return only the user's messages.
    """
    answer = after_last(messages, is_from_user)
    return turns_from(messages, after_last(messages[:answer], lambda message: not _is_user_side(message)))


def turns_from(messages: list[BaseMessage], start: int) -> list[tuple[Any, Turn]]:
    """Return the messages from `start` on, as pairs of message id and turn, without tool calls and tool results.

    Results at the very end are included, as the answer of a tool with `return_direct`.
    """
    end = after_last(messages, lambda message: not isinstance(message, ToolMessage))
    exchange = [message for message in messages[start:end] if is_from_user(message) or is_from_model(message)]
    exchange += [message for message in messages[max(start, end) :] if field_of(message, "status") != "error"]
    return [(message.id, turn_of(message)) for message in exchange]


def is_from_user(message: BaseMessage) -> bool:
    """Return whether the user wrote this message, as opposed to the framework on the user's behalf."""
    if isinstance(message, ChatMessage):
        return message.role in ("user", "human")
    return isinstance(message, HumanMessage) and not message.additional_kwargs.get("lc_source")


def is_from_model(message: BaseMessage) -> bool:
    """Return whether the model wrote this message."""
    if isinstance(message, ChatMessage):
        return message.role in ("assistant", "ai")
    return isinstance(message, AIMessage)


def turn_of(message: BaseMessage) -> Turn:
    """Convert a message to a turn of the user or the primary. A refusal counts as text."""
    content, text = message.content, str(message.text)
    if isinstance(content, list):
        refusals = [part.get("refusal") for part in content if isinstance(part, Mapping)]
        text += "".join(refusal for refusal in refusals if isinstance(refusal, str))
    refusal = message.additional_kwargs.get("refusal")
    return Turn("user" if is_from_user(message) else "primary", text or (refusal if isinstance(refusal, str) else ""))


def _is_user_side(message: BaseMessage) -> bool:
    # System messages, and human messages that the framework wrote, may be mixed in with the user's.
    return isinstance(message, SystemMessage | HumanMessage) or is_from_user(message)
