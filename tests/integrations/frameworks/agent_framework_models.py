"""A scripted chat client for Microsoft Agent Framework, and the steps that it returns."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from agent_framework import (
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
)


class ScriptedClient(FunctionInvocationLayer, ChatMiddlewareLayer, BaseChatClient):
    """A client that returns its steps in order.

    A step is a text, a list of contents, or an exception to raise. With a `conversation_id`, it claims to store the
    conversation.
    """

    def __init__(self, *steps: str | list[Any] | Exception, conversation_id: str | None = None) -> None:
        super().__init__()
        self.inputs: list[list[Message]] = []
        self.tools: list[Any] = []
        self._steps = list(steps)
        self._conversation_id = conversation_id

    def _inner_get_response(self, *, messages: Sequence[Message], stream: bool, options: Any, **kwargs: Any) -> Any:
        self.inputs.append(list(messages))
        self.tools = options.get("tools") or []
        return self._build_response_stream(self._stream()) if stream else self._respond()

    async def _respond(self) -> ChatResponse:
        messages = [Message("assistant", self._next())]
        return ChatResponse(messages=messages, conversation_id=self._conversation_id)

    async def _stream(self) -> AsyncIterator[ChatResponseUpdate]:
        for content in self._next():
            yield ChatResponseUpdate(
                role="assistant",
                contents=[content],
                message_id=str(len(self.inputs)),
                conversation_id=self._conversation_id,
            )

    def _next(self) -> list[Content]:
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        items = [step] if isinstance(step, str) else step
        return [Content.from_text(item) if isinstance(item, str) else item for item in items]

    @property
    def texts(self) -> list[list[str]]:
        """The texts of each input, one per message."""
        return [[message.text for message in messages] for messages in self.inputs]

    @property
    def tool_result(self) -> str:
        """The tool's result in the last input."""
        contents = [content for message in self.inputs[-1] for content in message.contents]
        return next(str(content.result) for content in contents if content.type == "function_result")


def tool_call(name: str, arguments: str = "{}", call_id: str = "call-1") -> Content:
    """Return a call of a tool."""
    return Content.from_function_call(call_id, name, arguments=arguments)


def read_notes() -> list[Any]:
    """Return a step that calls the notes tool and tries to name another session."""
    return [tool_call("get_session_notes", '{"session_id": "other"}')]
