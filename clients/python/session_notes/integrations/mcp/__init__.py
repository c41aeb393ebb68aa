"""An MCP server for a sidecar: read-only tools and resources for notes and sessions.

The command `session-notes mcp` runs it. To run it in a program, over stdio:

    >>> async with AsyncPrimaryClient() as client:
    ...     await serve_stdio(notes_server(client, session_id="session-1"))
"""

from importlib.metadata import version
from typing import Any

from session_notes.integrations._extras import missing_extra

try:
    from mcp import types
    from mcp.server import Server
    from mcp.server.stdio import stdio_server
    from mcp.shared.exceptions import MCPError
except ModuleNotFoundError as error:
    raise missing_extra(__name__, error) from error

from session_notes import AsyncPrimaryClient, InvalidArgument
from session_notes.integrations._arguments import check_client
from session_notes.integrations.mcp._errors import NoSuchSession, describe_error
from session_notes.integrations.mcp._http import serve_http
from session_notes.integrations.mcp._reader import Reader
from session_notes.integrations.mcp._resources import Resources
from session_notes.integrations.mcp._tools import make_tools

__all__ = ["notes_server", "serve_http", "serve_stdio"]

_INSTRUCTIONS = (
    "Background observers' notes on conversations with users, and the stored data on these conversations. Everything "
    "is read-only. Notes can be out of date: each reading reports their age, the number of turns since, and whether "
    "they are within the requested bounds."
)


def notes_server(client: AsyncPrimaryClient, *, session_id: str | None = None) -> "Server[Any]":
    """Make a `Server` of the package `mcp`, for any of its transports.

    Args:
        client: Reads from the sidecar. It must be open while the server runs.
        session_id: The only session to serve. The tools then take no session id. None: all sessions, and the model
            passes the id.

    Raises:
        InvalidArgument: If the client is not an `AsyncPrimaryClient`.
    """
    check_client(client, AsyncPrimaryClient)
    reader = Reader(client)
    tools = make_tools(reader, session_id)
    resources = Resources(reader, session_id)

    async def list_tools(_: Any, __: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.definition for tool in tools.values()])

    async def call_tool(_: Any, request: types.CallToolRequestParams) -> types.CallToolResult:
        tool = tools.get(request.name)
        if tool is None:
            raise MCPError(types.INVALID_PARAMS, "no such tool; tools/list returns the available tools")
        return await tool.call(request.arguments or {})

    async def list_resources(_: Any, __: Any) -> types.ListResourcesResult:
        try:
            return types.ListResourcesResult(resources=await resources.list_all())
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, describe_error(error)) from None

    async def list_templates(_: Any, __: Any) -> types.ListResourceTemplatesResult:
        return types.ListResourceTemplatesResult(resource_templates=resources.templates())

    async def read_resource(_: Any, request: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        try:
            return types.ReadResourceResult(contents=[await resources.read(request.uri)])
        except (NoSuchSession, InvalidArgument) as error:
            raise MCPError(types.INVALID_PARAMS, describe_error(error), {"uri": request.uri}) from None
        except Exception as error:
            raise MCPError(types.INTERNAL_ERROR, describe_error(error)) from None

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
    """Serve one host over stdin and stdout until it closes them."""
    async with stdio_server() as (from_host, to_host):
        await server.run(from_host, to_host, server.create_initialization_options())
