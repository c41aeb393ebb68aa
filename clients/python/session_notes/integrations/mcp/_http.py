"""Streamable HTTP, with bearer tokens and protection against web pages of other sites."""

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
"""The path of the server, as MCP hosts expect it."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_GRACE_SECONDS = 5


async def serve_http(
    server: Server[Any],
    listener: socket.socket,
    *,
    hosts: Sequence[str] = (),
    accepts_token: Callable[[str], bool] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then finish the calls in flight. Must run in the main thread.

    Args:
        server: The MCP server.
        listener: A listening socket.
        hosts: Host names that callers may use besides the loopback names, without a port. Requests for other names are
            rejected, to prevent DNS rebinding: a web page can point a name of its own domain to any address.
        accepts_token: Returns whether a bearer token is accepted. None: callers need no token.
        tls_cert: The certificate for TLS, a PEM file. None: no TLS.
        tls_key: The certificate's private key.
    """
    names = [*_LOOPBACK, *hosts]
    # Each name without a port, and with any port.
    names += [f"{name}:*" for name in names]
    app: ASGIApp = server.streamable_http_app(
        streamable_http_path=PATH,
        # Every call is a read that returns immediately, so no state is kept between requests.
        stateless_http=True,
        json_response=True,
        transport_security=TransportSecuritySettings(
            enable_dns_rebinding_protection=True,
            allowed_hosts=names,
            allowed_origins=[f"{scheme}://{name}" for scheme in ("http", "https") for name in names],
        ),
    )
    if accepts_token is not None:
        app = _TokenCheck(app, accepts_token)
    config = uvicorn.Config(
        app,
        # uvicorn prefers httptools if that is installed, but it keeps spaces at the end of a header's value.
        http="h11",
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    # After its shutdown, uvicorn raises the signal again for the previous handler, which has nothing left to do.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    await uvicorn.Server(config).serve([listener])


class _TokenCheck:
    """Middleware that answers 401 unless the request has an accepted bearer token."""

    def __init__(self, app: ASGIApp, accepts_token: Callable[[str], bool]) -> None:
        self._app = app
        self._accepts_token = accepts_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not self._accepts_token(token.strip()):
                rejection = PlainTextResponse(
                    "send a bearer token for all sessions, with the role primary or admin\n",
                    401,
                    {"WWW-Authenticate": "Bearer"},
                )
                await rejection(scope, receive, send)
                return
        await self._app(scope, receive, send)
