"""A scripted model for the OpenAI Agents SDK, and the outputs that it returns."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import Model, ModelResponse, TResponseInputItem, Usage
from agents.items import TResponseStreamEvent
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)


class ScriptedModel(Model):
    """A model that returns its steps in order.

    A step is a text, a list of outputs, or an exception to raise.
    """

    def __init__(self, *steps: str | list[Any] | Exception) -> None:
        self.inputs: list[list[TResponseInputItem]] = []
        self.tools: list[Any] = []
        self._steps = list(steps)

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        """Return the next step."""
        await asyncio.sleep(0)
        self.inputs.append(input)
        self.tools = args[1] if len(args) > 1 else kwargs["tools"]
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        output: Any = [message(step)] if isinstance(step, str) else step
        return ModelResponse(output=output, usage=Usage(), response_id=None)

    async def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[TResponseStreamEvent]:
        """Return the next step as a single event."""
        output = (await self.get_response(*args, **kwargs)).output
        response = Response(
            id="response",
            created_at=0,
            model="scripted",
            object="response",
            output=output,
            parallel_tool_calls=False,
            tool_choice="auto",
            tools=[],
        )
        yield ResponseCompletedEvent(type="response.completed", sequence_number=0, response=response)

    @property
    def tool_result(self) -> Any:
        """The result of the tool in the last input."""
        return next(item for item in self.inputs[-1] if item.get("type") == "function_call_output").get("output")


def message(text: str) -> ResponseOutputMessage:
    """Return a message of the model."""
    content: list[Any] = [ResponseOutputText(type="output_text", text=text, annotations=[])]
    return ResponseOutputMessage(id="m", type="message", role="assistant", status="completed", content=content)


def tool_call(name: str, arguments: str = "{}", call_id: str = "call-1") -> ResponseFunctionToolCall:
    """Return a call of a function."""
    return ResponseFunctionToolCall(type="function_call", call_id=call_id, name=name, arguments=arguments)


def read_notes() -> list[Any]:
    """Return a step that calls the notes tool and tries to name another session."""
    return [tool_call("get_session_notes", '{"session_id": "other"}')]
