"""A scripted model for Google ADK, and helpers that run agents with it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from google.adk.agents.run_config import RunConfig
from google.adk.apps import App
from google.adk.events import Event
from google.adk.models.base_llm import BaseLlm
from google.adk.models.base_llm_connection import BaseLlmConnection
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.plugins.base_plugin import BasePlugin
from google.adk.runners import Runner
from google.adk.sessions.base_session_service import BaseSessionService
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.adk.workflow import BaseNode
from google.genai.types import Content, FunctionCall, FunctionResponse, Part
from pydantic import PrivateAttr


class ScriptedModel(BaseLlm):
    """A model that returns its steps in order. A step is a text, a list of parts, or an exception to raise.

    To a streaming request, it returns each word first, as a partial response.
    """

    model: str = "scripted"
    _steps: list[Any] = PrivateAttr()
    _requests: list[list[Content]] = PrivateAttr(default_factory=list)

    def __init__(self, *steps: Any) -> None:
        super().__init__(model="scripted")
        self._steps = list(steps)

    async def generate_content_async(
        self, llm_request: LlmRequest, stream: bool = False
    ) -> AsyncGenerator[LlmResponse, None]:
        """Return the next step."""
        self._requests.append(list(llm_request.contents))
        step = self._steps.pop(0)
        if isinstance(step, Exception):
            raise step
        parts = [Part(text=step)] if isinstance(step, str) else step
        for part in parts if stream else ():
            for word in (part.text or "").split():
                partial = Part(text=f"{word} ", thought=part.thought)
                yield LlmResponse(content=Content(role="model", parts=[partial]), partial=True)
        yield LlmResponse(content=Content(role="model", parts=parts), turn_complete=True)

    @asynccontextmanager
    async def connect(self, llm_request: LlmRequest) -> AsyncIterator[BaseLlmConnection]:
        """Open a live session, whose steps are lists of responses."""
        yield _LiveConnection(self._steps)

    @property
    def requests(self) -> list[list[str]]:
        """The texts in each request."""
        return [
            [part.text for content in request for part in content.parts or () if part.text]
            for request in self._requests
        ]

    @property
    def tool_result(self) -> Any:
        """The result of the tool in the last request."""
        parts = reversed(_parts(self._requests[-1]))
        return next(part.function_response.response for part in parts if part.function_response)


class _LiveConnection(BaseLlmConnection):
    """A live session that responds with the next step to each message of the user."""

    def __init__(self, steps: list[list[LlmResponse]]) -> None:
        self._steps = steps
        self._messages: asyncio.Queue[Content | None] = asyncio.Queue()

    async def send_history(self, history: list[Content]) -> None:
        """Ignore the history."""

    async def send_content(self, content: Content) -> None:
        """Receive a message of the user."""
        await self._messages.put(content)

    async def send_realtime(self, blob: Any) -> None:
        """Ignore the audio."""

    async def receive(self) -> AsyncGenerator[LlmResponse, None]:
        """Return the next step once there is a message; nothing when the session has ended."""
        if await self._messages.get():
            for response in self._steps.pop(0):
                yield response

    async def close(self) -> None:
        """End the session."""
        await self._messages.put(None)


def call(name: str, *, call_id: str | None = None, **arguments: Any) -> Part:
    """Return a call of a tool."""
    return Part(function_call=FunctionCall(name=name, args=arguments, id=call_id))


def result(name: str, call_id: str, **response: Any) -> Content:
    """Return the user's message with the result of a tool that another program ran."""
    return Content(
        role="user", parts=[Part(function_response=FunctionResponse(id=call_id, name=name, response=response))]
    )


def read_notes() -> list[Part]:
    """Return a step that calls the notes tool and tries to name another session."""
    return [call("get_session_notes", session_id="other")]


class Conversation:
    """A session of an ADK agent with plugins."""

    def __init__(
        self,
        agent: BaseNode,
        *plugins: BasePlugin,
        session_id: str = "session-1",
        service: BaseSessionService | None = None,
    ) -> None:
        self.service = service or InMemorySessionService()
        self.session_id = session_id
        self.runner = Runner(
            app=App(name="support", root_agent=agent, plugins=list(plugins)),
            session_service=self.service,
            auto_create_session=True,
        )

    async def say(self, message: str | Content, config: RunConfig | None = None) -> str:
        """Send a message and return the text of the last event."""
        content = Content(role="user", parts=[Part(text=message)]) if isinstance(message, str) else message
        events = self.runner.run_async(
            user_id="user", session_id=self.session_id, new_message=content, run_config=config
        )
        return [_text_of(event) async for event in events][-1]

    async def stored(self) -> list[str]:
        """Return the texts of the stored session."""
        session = await self.service.get_session(app_name="support", user_id="user", session_id=self.session_id)
        assert session is not None
        return [text for event in session.events if (text := _text_of(event))]


def _text_of(event: Event) -> str:
    return "".join(part.text or "" for part in _parts([event.content] if event.content else []))


def _parts(contents: list[Content]) -> list[Part]:
    return [part for content in contents for part in content.parts or ()]
