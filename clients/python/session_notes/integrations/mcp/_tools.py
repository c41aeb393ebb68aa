"""The tools: what a model may ask for, checked, and answered as a document."""

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
from session_notes.integrations.mcp._reads import LISTED, Reads, explanation
from session_notes.integrations.tools import CONTENTS, HOW_TO_GO_ON, HOW_TO_READ

_READS_ONLY = types.ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)

Observer = Annotated[str, Field(description="Whose notes; left out: those of the observer named default.")]


class Arguments(BaseModel):
    """What a tool may be told, but for the session; anything else is a mistake, and is said to be one."""

    model_config = ConfigDict(extra="forbid")


class GetNotes(Arguments):
    observer: Observer = ""
    max_age_seconds: Annotated[
        float | None, Field(ge=0, le=1e9, description="The oldest age that still counts as fresh.")
    ] = None
    max_turns_behind: Annotated[
        int | None, Field(ge=0, description="How many turns may have come since and the notes still count as fresh.")
    ] = None

    @property
    def max_age(self) -> timedelta | None:
        return None if self.max_age_seconds is None else timedelta(seconds=self.max_age_seconds)


class BatchGetNotes(GetNotes):
    session_ids: Annotated[list[str], Field(min_length=1, description="The sessions' ids.")]


class GetSession(Arguments):
    include_turns: Annotated[
        bool, Field(description="Whether to get the transcript too, as far as it is kept: its last 2,000 turns.")
    ] = False


class ListRuns(Arguments):
    observer: Observer = ""
    include_notes: Annotated[bool, Field(description="Whether to get each run's notes, superseded ones too.")] = False


class ListSessions(Arguments):
    pass


@dataclass(frozen=True)
class Tool:
    """A tool: how it is offered, what it takes, and what it does."""

    definition: types.Tool
    arguments: type[Arguments]
    read: Callable[[Any], Awaitable[Document]]

    async def call(self, arguments: dict[str, Any]) -> types.CallToolResult:
        """Its result; whatever goes wrong is one that says so, for the model to read."""
        try:
            document = await self.read(self.arguments.model_validate(arguments))
        except ValidationError as error:
            return _failed("; ".join(f"{_path(one['loc'])}: {one['msg']}" for one in error.errors()))
        except Exception as error:
            return _failed(explanation(error))
        text = json.dumps(document, ensure_ascii=False)
        return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=document)


def tools(reads: Reads, session_id: str | None) -> dict[str, Tool]:
    """The tools by name; for one session alone where an id is given."""

    # The session is the caller's to name, or not the caller's at all.
    def of(arguments: Any) -> str:
        return arguments.session_id if session_id is None else session_id

    async def get_notes(asked: GetNotes) -> Document:
        return await reads.notes(of(asked), asked.observer, asked.max_age, asked.max_turns_behind)

    async def get_session(asked: GetSession) -> Document:
        return await reads.session(of(asked), turns=asked.include_turns)

    async def list_runs(asked: ListRuns) -> Document:
        return await reads.runs(of(asked), asked.observer, notes=asked.include_notes)

    async def batch_get_notes(asked: BatchGetNotes) -> Document:
        return await reads.notes_of_many(asked.session_ids, asked.observer, asked.max_age, asked.max_turns_behind)

    async def list_sessions(_: ListSessions) -> Document:
        return await reads.sessions()

    # One session's server is for who talks to its user; one of all is for people who look into them.
    session = "a conversation (a session)" if session_id is None else "this conversation"
    how = HOW_TO_READ if session_id is None else f"{HOW_TO_READ}\n{HOW_TO_GO_ON}"
    made = [
        _tool(
            get_notes,
            f"Reads the notes that a background observer keeps on {session}: {CONTENTS}. Answers at once.\n{how}",
            _of_session(GetNotes, session_id),
            ReadingDocument,
        ),
        _tool(
            get_session,
            f"Reads all that is kept about {session}: the application's fields, how many turns there were, every "
            "observer's notes as get_notes gives them, and the transcript where asked for.",
            _of_session(GetSession, session_id),
            SessionDocument,
        ),
        _tool(
            list_runs,
            f"Lists an observer's last 20 runs on {session}, newest first, and what became of each: for finding out "
            "why there are no notes, or old ones.",
            _of_session(ListRuns, session_id),
            RunsDocument,
        ),
    ]
    if session_id is None:
        made += [
            _tool(
                batch_get_notes,
                "Reads the notes on several sessions at once, in the order of their ids: as get_notes for each.",
                BatchGetNotes,
                ReadingsDocument,
            ),
            _tool(
                list_sessions,
                f"Lists sessions that are kept just now, in no order: at most {LISTED}. `more` says whether there are "
                "others.",
                ListSessions,
                SummariesDocument,
            ),
        ]
    return {tool.definition.name: tool for tool in made}


def _tool(
    read: Callable[[Any], Awaitable[Document]], description: str, arguments: type[Arguments], document: Any
) -> Tool:
    definition = types.Tool(
        name=read.__name__,
        description=description,
        input_schema=arguments.model_json_schema(),
        output_schema=TypeAdapter(document).json_schema(),
        annotations=_READS_ONLY,
    )
    return Tool(definition, arguments, read)


def _of_session(arguments: type[Arguments], session_id: str | None) -> type[Arguments]:
    if session_id is not None:
        return arguments
    named = Annotated[str, Field(description="The session's id.")]
    return create_model(arguments.__name__, __base__=arguments, session_id=(named, ...))


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))


def _failed(text: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)
