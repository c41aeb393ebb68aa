"""A scripted chat model for LangChain, and the messages that it returns."""

from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import Field


class ScriptedModel(BaseChatModel):
    """A chat model that returns its steps in order and raises those that are exceptions."""

    steps: list[Any]
    received: list[BaseMessage] = Field(default_factory=list)
    offered: list[Any] = Field(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.received = list(messages)
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        message = step if isinstance(step, AIMessage) else AIMessage(step)
        return ChatResult(generations=[ChatGeneration(message=message)])

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Store the offered tools."""
        self.offered = list(tools)
        return self

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def tool_result(self) -> Any:
        """The result of the tool in the last input."""
        return next(message.content for message in self.received if isinstance(message, ToolMessage))


def tool_call(name: str, text: str = "", number: int = 1, /, **arguments: Any) -> AIMessage:
    """Return a message that calls a tool."""
    return AIMessage(text, tool_calls=[{"name": name, "args": arguments, "id": f"c{number}", "type": "tool_call"}])


def read_notes() -> AIMessage:
    """Return a message that calls the notes tool and tries to name another session."""
    return tool_call("get_session_notes", session_id="other")
