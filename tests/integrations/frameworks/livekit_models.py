"""Scripted models for LiveKit, and a microphone: speech is recognized, and the language model calls the notes tool."""

import asyncio
from typing import Any

from livekit import rtc
from livekit.agents import llm, stt
from livekit.agents.language import LanguageCode
from livekit.agents.voice.io import AudioInput

from tests.integrations.frameworks.support import QUESTION

ANSWER = "What did you order?"


class _ScriptedStream(llm.LLMStream):
    async def _run(self) -> None:
        model: Any = self._llm
        results = [item for item in self.chat_ctx.items if item.type == "function_call_output"]
        call = llm.FunctionToolCall(name="get_session_notes", arguments='{"session_id": "other"}', call_id="1")
        content, calls = (ANSWER, []) if results or not model.calls else (None, [call])
        delta = llm.ChoiceDelta(role="assistant", content=content, tool_calls=calls)
        self._event_ch.send_nowait(llm.ChatChunk(id="chunk", delta=delta))


class ScriptedLLM(llm.LLM[Any]):
    """A language model that calls the notes tool and answers once it has the result, or answers immediately."""

    def __init__(self, *, calls: bool = True) -> None:
        super().__init__()
        self.calls = calls
        self.inputs: list[list[str]] = []

    def chat(
        self, *, chat_ctx: llm.ChatContext, tools: Any = None, conn_options: Any = None, **_: Any
    ) -> llm.LLMStream:
        """Stream the next step of the script."""
        self.inputs.append([message.text_content or "" for message in chat_ctx.messages()])
        return _ScriptedStream(self, chat_ctx=chat_ctx, tools=tools or [], conn_options=conn_options)


class _RecognizedSpeech(stt.RecognizeStream):
    async def _run(self) -> None:
        async for _ in self._input_ch:
            data = stt.SpeechData(language=LanguageCode("en"), text=QUESTION)
            self._event_ch.send_nowait(stt.SpeechEvent(type=stt.SpeechEventType.FINAL_TRANSCRIPT, alternatives=[data]))
            break
        async for _ in self._input_ch:
            pass


class ScriptedSTT(stt.STT[Any]):
    """Speech recognition that recognizes the question in the first audio."""

    def __init__(self) -> None:
        super().__init__(capabilities=stt.STTCapabilities(streaming=True, interim_results=False))

    async def _recognize_impl(self, *_: Any, **__: Any) -> stt.SpeechEvent:
        raise NotImplementedError

    def stream(self, *, language: Any = None, conn_options: Any = None) -> stt.RecognizeStream:
        """Recognize the audio of a session."""
        return _RecognizedSpeech(stt=self, conn_options=conn_options)


class Microphone(AudioInput):
    """An input with a tenth of a second of silence each time `speak` is called."""

    def __init__(self) -> None:
        super().__init__(label="microphone")
        self._frames: asyncio.Queue[rtc.AudioFrame] = asyncio.Queue()

    def speak(self) -> None:
        """Produce a frame of audio."""
        self._frames.put_nowait(rtc.AudioFrame(bytes(2 * 1600), 16000, 1, 1600))

    async def __anext__(self) -> rtc.AudioFrame:
        """Return the next frame."""
        return await self._frames.get()
