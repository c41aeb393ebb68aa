"""MCP tools: their definitions, the check of their arguments, and their results."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

from mcp import types
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

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

Observer = Annotated[str, Field(description="The observer; omit it for the one named default.")]


class Arguments(BaseModel):
    """The arguments of a tool, without the session. Unknown arguments are errors."""

    model_config = ConfigDict(extra="forbid")


class GetNotes(Arguments):
    observer: Observer = ""
    max_age_seconds: Annotated[
        float | None, Field(ge=0, le=1e9, description="The greatest age at which notes are fresh.")
    ] = None
    max_turns_behind: Annotated[
        int | None, Field(ge=0, description="The most turns since the observer's copy at which notes are fresh.")
    ] = None

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
    include_notes: Annotated[bool, Field(description="Whether to return each run's notes, superseded ones too.")] = (
        False
    )


class ListSessions(Arguments):
    pass


@dataclass(frozen=True)
class Tool:
    """A tool: its definition for the host, the model of its arguments, and the read behind it."""

    definition: types.Tool
    arguments: type[Arguments]
    read: Callable[[Any], Awaitable[Document]]

    async def call(self, arguments: dict[str, Any]) -> types.CallToolResult:
        """Return the result of a call. A failure is a result too, with a text for the model."""
        try:
            document = await self.read(self.arguments.model_validate(arguments))
        except ValidationError as error:
            return _failure("; ".join(f"{_path(detail['loc'])}: {detail['msg']}" for detail in error.errors()))
        except Exception as error:
            return _failure(describe_error(error))
        text = json.dumps(document, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=document)


def make_tools(reader: Reader, session_id: str | None) -> dict[str, Tool]:
    """Return the tools by name. With a session id, they read that session only and take none."""

    def session_of(arguments: Any) -> str:
        return arguments.session_id if session_id is None else session_id

    async def get_notes(arguments: GetNotes) -> Document:
        return await reader.notes(
            session_of(arguments), arguments.observer, arguments.max_age, arguments.max_turns_behind
        )

    async def get_session(arguments: GetSession) -> Document:
        return await reader.session(session_of(arguments), include_turns=arguments.include_turns)

    async def list_runs(arguments: ListRuns) -> Document:
        return await reader.runs(session_of(arguments), arguments.observer, include_notes=arguments.include_notes)

    async def batch_get_notes(arguments: BatchGetNotes) -> Document:
        return await reader.batch_notes(
            arguments.session_ids, arguments.observer, arguments.max_age, arguments.max_turns_behind
        )

    async def list_sessions(_: ListSessions) -> Document:
        return await reader.sessions()

    # A server of one session is for a model that talks to its user; one of all sessions is for people who inspect them.
    session = "a conversation (a session)" if session_id is None else "this conversation"
    guide = READING_GUIDE if session_id is None else f"{READING_GUIDE}\n{CONVERSATION_GUIDE}"
    tools = [
        _tool(
            get_notes,
            f"Reads a background observer's notes on {session}: {NOTES_CONTENTS}. Returns at once.\n{guide}",
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
            f"Lists an observer's last 20 runs on {session} with their outcomes, newest first. Explains why notes are "
            "missing or old.",
            _with_session_id(ListRuns, session_id),
            RunsDocument,
        ),
    ]
    if session_id is None:
        tools += [
            _tool(
                batch_get_notes,
                "Reads the notes on several sessions at once, in the order of their ids, as get_notes does for each.",
                BatchGetNotes,
                ReadingsDocument,
            ),
            _tool(
                list_sessions,
                f"Lists at most {MAX_LISTED} stored sessions, in no particular order. `more` tells whether others "
                "exist.",
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
