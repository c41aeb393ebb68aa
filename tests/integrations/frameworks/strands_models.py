"""A scripted model for Strands Agents, and the steps that it returns."""

import copy
from collections.abc import AsyncIterator
from typing import Any

from strands.models import Model
from strands.types.content import Message
from strands.types.streaming import StreamEvent


class ScriptedModel(Model):
    """A model that returns its steps in order. A step is a text, a list of content blocks, or an exception to raise."""

    def __init__(self, *steps: str | list[Any] | Exception) -> None:
        self.inputs: list[list[Message]] = []
        self.tools: list[Any] = []
        self._steps = list(steps)

    async def stream(
        self, messages: list[Message], tool_specs: Any = None, system_prompt: str | None = None, **kwargs: Any
    ) -> AsyncIterator[StreamEvent]:
        """Stream the next step."""
        self.inputs.append(copy.deepcopy(messages))
        self.tools = tool_specs
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        blocks: list[Any] = [{"text": step}] if isinstance(step, str) else step
        yield {"messageStart": {"role": "assistant"}}
        for block in blocks:
            start: Any = {}
            delta: Any = block
            if "toolUse" in block:
                start = {"toolUse": block["toolUse"]}
                delta = {"toolUse": {"input": block["toolUse"]["input"]}}
            yield {"contentBlockStart": {"start": start}}
            yield {"contentBlockDelta": {"delta": delta}}
            yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if "toolUse" in blocks[-1] else "end_turn"}}

    def structured_output(self, *args: Any, **kwargs: Any) -> Any:
        """Not used by these tests. Strands deprecates it."""
        raise NotImplementedError

    def update_config(self, **model_config: Any) -> None:
        """Do nothing."""

    def get_config(self) -> Any:
        """Return no configuration."""
        return {}

    @property
    def texts(self) -> list[str]:
        """The texts of the last message of each input."""
        return ["".join(block.get("text", "") for block in messages[-1]["content"]) for messages in self.inputs]

    @property
    def tool_result(self) -> str:
        """The text of the tool's result in the last input."""
        blocks: list[Any] = self.inputs[-1][-1]["content"]
        return next(str(block["toolResult"]["content"][0]["text"]) for block in blocks if "toolResult" in block)


class StatefulModel(ScriptedModel):
    """A scripted model whose provider stores the conversation. Each response has a new id, as with OpenAI."""

    @property
    def stateful(self) -> bool:
        """True."""
        return True

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[StreamEvent]:
        """Stream the next step, and store the id of the response."""
        async for event in super().stream(*args, **kwargs):
            yield event
        kwargs["model_state"]["response_id"] = str(len(self.inputs))


def tool_call(name: str, arguments: str = "{}", call_id: str = "call-1") -> Any:
    """Return a call of a tool."""
    return {"toolUse": {"toolUseId": call_id, "name": name, "input": arguments}}


def read_notes() -> list[Any]:
    """Return a step that calls the notes tool and tries to name another session."""
    return [tool_call("get_session_notes", '{"session_id": "other"}')]
