"""A scripted language model for LiveKit: it calls the notes tool, and answers once it has the result."""

from typing import Any

from livekit.agents import llm

ANSWER = "What did you order?"


class _ScriptedStream(llm.LLMStream):
    async def _run(self) -> None:
        results = [item for item in self.chat_ctx.items if item.type == "function_call_output"]
        call = llm.FunctionToolCall(name="get_session_notes", arguments='{"session_id": "other"}', call_id="1")
        content, calls = (ANSWER, []) if results else (None, [call])
        delta = llm.ChoiceDelta(role="assistant", content=content, tool_calls=calls)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))


class ScriptedLLM(llm.LLM[Any]):
    """A language model that follows the script."""

    def chat(
        self, *, chat_ctx: llm.ChatContext, tools: Any = None, conn_options: Any = None, **_: Any
    ) -> llm.LLMStream:
        """Stream the next step of the script."""
        return _ScriptedStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)
