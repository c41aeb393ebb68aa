"""The calls that a bench can make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Protocol = Literal["grpc", "http", "redis", "client"]
"""How callers make a call: gRPC, HTTP/1.1, redis-py, or a client library that makes one call at a time."""


@dataclass(frozen=True)
class Target:
    """One method of one server, with its requests.

    Attributes:
        place: The server's name in the report: `bare grpc.aio (tcp)`, `session-notes, native (unix)`, …
        name: The call's name in the report.
        address: A gRPC address, host and port of an HTTP server, a Redis URL, or the addresses that a client library
            needs, separated by spaces.
        method: gRPC: `/package.Service/Method`. HTTP: the verb and the path. Others: one of the names in `caller`.
        bodies: Requests, sent in turn: serialized messages or documents; for redis-py and client libraries the keys.
        servers: The server's processes, whose CPU time is measured; empty if unknown.
        store: The process of the store behind it, whose CPU time is measured too; None if unknown.
        authenticated: Whether callers send the token and certificates of the environment.
        protocol: How it is called.
    """

    place: str
    name: str
    address: str
    method: str
    bodies: tuple[bytes, ...]
    servers: tuple[int, ...] = ()
    store: int | None = None
    authenticated: bool = False
    protocol: Protocol = "grpc"

    @property
    def transport(self) -> str:
        """`unix` or `tcp`."""
        return "unix" if self.address.startswith("unix:") else "tcp"
