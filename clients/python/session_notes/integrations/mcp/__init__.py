"""An MCP server over a sidecar: notes and sessions as tools and resources, all of them read-only.

The command `session-notes mcp` runs it. With the client alone, over stdio:

    >>> async with AsyncPrimaryClient() as client:
    ...     await serve_stdio(notes_server(client, session_id="session-1"))
"""

from importlib.metadata import version
from typing import Any

try:
    from mcp import types
    from mcp.server import Server
    from mcp.server.stdio import stdio_server
    from mcp.shared.exceptions import MCPError
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"session_notes.integrations.mcp needs the package {error.name}: pip install '.[mcp]' in its checkout",
        name=error.name,
    ) from error

from session_notes import AsyncPrimaryClient, InvalidArgument
from session_notes.integrations._binding import check_client
from session_notes.integrations.mcp._http import serve_http
from session_notes.integrations.mcp._reads import NoSuchSession, Reads, explanation
from session_notes.integrations.mcp._resources import Resources
from session_notes.integrations.mcp._tools import tools

__all__ = ["notes_server", "serve_http", "serve_stdio"]

_INSTRUCTIONS = (
    "Notes that background observers keep on conversations with users, and what is stored about these conversations. "
    "All of it is read-only. Notes can be out of date: each reading says how old it is, how far the conversation has "
    "moved on since, and whether it is within the bounds asked for."
)


def notes_server(client: AsyncPrimaryClient, *, session_id: str | None = None) -> "Server[Any]":
    """Make a server of the package `mcp`, to be run over any transport of it.

    Args:
        client: The client to read with; it must be open while the server runs.
        session_id: The only session to serve; its tools then take no id, and nothing about another can be read.
            None: all of them, the model saying which.

    Raises:
        InvalidArgument: If the client is no `AsyncPrimaryClient`.
    """
    check_client(client, AsyncPrimaryClient)
    reads = Reads(client)
    known = tools(reads, session_id)
    resources = Resources(reads, session_id)

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.definition for tool in known.values()])

    async def call_tool(_: Any, asked: types.CallToolRequestParams) -> types.CallToolResult:
        tool = known.get(asked.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, "there is no such tool")
        return await tool.call(asked.arguments or {})

    async def list_resources(_: Any, __: Any) -> types.ListResourcesResult:
        try:
            return types.ListResourcesResult(resources=await resources.listed())
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, explanation(error)) from None

    async def list_templates(_: Any, __: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=resources.templates())

    async def read_resource(_: Any, asked: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        try:
            return types.ReadResourceResult(contents=[await resources.read(asked.uri)])
        except (NoSuchSession, InvalidArgument) as error:
            raise MCPError(types.INVALID_PARAMS, explanation(error), {"uri": asked.uri}) from None
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, explanation(error)) from None

    return Server(
        "session-notes",
        version=version("session-notes"),
        title="Session notes",
        instructions=_INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
    )


async def serve_stdio(server: "Server[Any]") -> None:
    """Serves one host over stdin and stdout, until it closes them."""
    async with stdio_server() as (from_host, to_host):
        await server.run(from_host, to_host, server.create_initialization_options())
