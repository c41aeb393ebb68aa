"""Serves over streamable HTTP: on one socket, to callers who are known, and to no web page of somebody else's."""

import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any

import uvicorn
from mcp.server import Server
from mcp.server.transport_security import TransportSecuritySettings
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/mcp"
"""Where the server is, as MCP's hosts expect it."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_GRACE_SECONDS = 5


async def serve_http(
    server: Server[Any],
    listener: socket.socket,
    *,
    hosts: Sequence[str] = (),
    knows: Callable[[str], bool] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, and then what is under way; only in a process's main thread.

    Args:
        server: What to serve.
        listener: A listening socket.
        hosts: The names that callers may call this machine by, beside those of loopback, without a port. Others are
            refused, since a web page can make a browser call any address by a name of its own (DNS rebinding).
        knows: Whether a bearer token is known; None: everybody who can connect may call.
        tls_cert: Encrypt with this certificate, a PEM file; None: do not.
        tls_key: The private key of it.
    """
    names = [*_LOOPBACK, *hosts]
    # Without the port, and with any.
    names += [f"{name}:*" for name in names]
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        # All there is are reads that answer at once: nothing to keep between two requests.
        stateless_http=True,
        json_response=True,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=names,
            allowed_origins=[f"{scheme}://{name}" for scheme in ("http", "https") for name in names],
        ),
    )
    if knows is not None:
        app = _KnownCallers(app, knows)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    # Once it has stopped, uvicorn raises the signal again for whoever handled it before: there is nothing left to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(config).serve([listener])


class _KnownCallers:
    """Lets those through whose token is known."""

    def __init__(self, app: ASGIApp, knows: Callable[[str], bool]) -> None:
        self._app = app
        self._knows = knows

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self._knows(token.strip()):
                refusal = PlainTextResponse("a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
