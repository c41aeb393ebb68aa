"""MCP tools: definitions, validation of arguments, and results."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

from mcp import types
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from session_notes import Severity
from session_notes.integrations.mcp._documents import (
    Document,
    ReadingDocument,
    ReadingsDocument,
    RunsDocument,
    SessionDocument,
    SummariesDocument,
)
from session_notes.integrations.mcp._errors import describe_error
from session_notes.integrations.mcp._reader import MAX_LISTED, Reader
from session_notes.integrations.tools import CONVERSATION_GUIDE, NOTES_CONTENTS, READING_GUIDE

_READ_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

Observer = Annotated[str, Field(description="The observer's name. Omit it for the observer named default.")]


class Arguments(BaseModel):
    """The arguments of a tool, without the session. Unknown arguments are errors."""

    model_config = ConfigDict(extra="forbid")


class GetNotes(Arguments):
    observer: Observer = ""
    max_age_seconds: Annotated[
        float | None, Field(ge=0, le=1e9, description="The maximum `age_seconds` of fresh notes.")
    ] = None
    max_turns_behind: Annotated[int | None, Field(ge=0, description="The maximum `turns_behind` of fresh notes.")] = (
        None
    )
    min_severity: Annotated[
        Literal["info", "warning", "critical"] | None, Field(description="Leave out less severe issues.")
    ] = None

    @property
    def severity(self) -> Severity | None:
        return None if self.min_severity is None else Severity(self.min_severity)

    @property
    def max_age(self) -> timedelta | None:
        return None if self.max_age_seconds is None else timedelta(seconds=self.max_age_seconds)


class BatchGetNotes(GetNotes):
    session_ids: Annotated[list[str], Field(min_length=1, description="The ids of the sessions.")]


class GetSession(Arguments):
    include_turns: Annotated[
        bool, Field(description="Whether to return the transcript: at most its last 2,000 turns.")
    ] = False


class ListRuns(Arguments):
    observer: Observer = ""
    include_notes: Annotated[
        bool, Field(description="Whether to return each run's notes, including superseded ones.")
    ] = False


class ListSessions(Arguments):
    pass


@dataclass(frozen=True)
class Tool:
    """A tool: its definition for the host, the model of its arguments, and its read function."""

    definition: types.Tool
    arguments: type[Arguments]
    read: Callable[[Any], Awaitable[Document]]

    async def call(self, arguments: dict[str, Any]) -> types.CallToolResult:
        """Call the tool and return the result. A failure is also a result, with a text for the model."""
        try:
            document = await self.read(self.arguments.model_validate(arguments))
        except ValidationError as error:
            return _failure("; ".join(f"{_path(detail['loc'])}: {detail['msg']}" for detail in error.errors()))
        except Exception as error:
            return _failure(describe_error(error))
        text = json.dumps(document, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=document)


def make_tools(reader: Reader, session_id: str | None) -> dict[str, Tool]:
    """Return the tools by name. With a session id, they read only that session and take no session id."""

    def session_of(arguments: Any) -> str:
        return arguments.session_id if session_id is None else session_id

    async def get_notes(arguments: GetNotes) -> Document:
        return await reader.notes(
            session_of(arguments),
            arguments.observer,
            arguments.max_age,
            arguments.max_turns_behind,
            arguments.severity,
        )

    async def get_session(arguments: GetSession) -> Document:
        return await reader.session(session_of(arguments), include_turns=arguments.include_turns)

    async def list_runs(arguments: ListRuns) -> Document:
        return await reader.runs(session_of(arguments), arguments.observer, include_notes=arguments.include_notes)

    async def batch_get_notes(arguments: BatchGetNotes) -> Document:
        return await reader.batch_notes(
            arguments.session_ids,
            arguments.observer,
            arguments.max_age,
            arguments.max_turns_behind,
            arguments.severity,
        )

    async def list_sessions(_: ListSessions) -> Document:
        return await reader.sessions()

    # A server of one session is for a model that talks to the user. A server of all sessions is for inspection.
    session = "a conversation (a session)" if session_id is None else "this conversation"
    guide = READING_GUIDE if session_id is None else f"{READING_GUIDE}\n{CONVERSATION_GUIDE}"
    tools = [
        _tool(
            get_notes,
            f"Reads a background observer's notes on {session}: {NOTES_CONTENTS}. Returns immediately.\n{guide}",
            _with_session_id(GetNotes, session_id),
            ReadingDocument,
        ),
        _tool(
            get_session,
            f"Reads all stored data on {session}: the application's fields, the turn count, every observer's notes as "
            "get_notes returns them, and, if requested, the transcript.",
            _with_session_id(GetSession, session_id),
            SessionDocument,
        ),
        _tool(
            list_runs,
            f"Lists an observer's last 20 runs on {session} with their outcomes, newest first. Shows why notes are "
            "missing or old.",
            _with_session_id(ListRuns, session_id),
            RunsDocument,
        ),
    ]
    if session_id is None:
        tools += [
            _tool(
                batch_get_notes,
                "Reads the notes on several sessions, each as get_notes does, in the order of the ids.",
                BatchGetNotes,
                ReadingsDocument,
            ),
            _tool(
                list_sessions,
                f"Lists at most {MAX_LISTED} stored sessions, in no particular order. `more`: whether others exist.",
                ListSessions,
                SummariesDocument,
            ),
        ]
    return {tool.definition.name: tool for tool in tools}


def _tool(
    read: Callable[[Any], Awaitable[Document]], description: str, arguments: type[Arguments], document: Any
) -> Tool:
    definition = types.Tool(
        name=read.__name__,
        description=description,
        input_schema=arguments.model_json_schema(),
        output_schema=TypeAdapter(document).json_schema(),
        annotations=_READ_ONLY,
    )
    return Tool(definition, arguments, read)


def _with_session_id(arguments: type[Arguments], session_id: str | None) -> type[Arguments]:
    """Return the arguments, with a required `session_id` unless the server has only one session."""
    if session_id is not None:
        return arguments
    required = Annotated[str, Field(description="The session's id.")]
    return create_model(arguments.__name__, __base__=arguments, session_id=(required, ...))


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _failure(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
