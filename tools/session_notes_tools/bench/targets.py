"""The calls that a bench can make."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """One method of one server, with its requests.

    Attributes:
        place: The server's name in the report: `floor (tcp)`, `session-notes (unix)`, …
        name: The call's name in the report.
        address: A gRPC address, or a Redis URL.
        method: `/package.Service/Method`, or one of `caller`'s names for Redis operations.
        bodies: Serialized requests, sent in turn; for Redis the keys.
        servers: The server's processes, whose CPU time is measured; empty if unknown.
        store: The process of the store behind it, whose CPU time is measured too; None if unknown.
        authenticated: Whether callers send the token and certificates of the environment.
    """

    place: str
    name: str
    address: str
    method: str
    bodies: tuple[bytes, ...]
    servers: tuple[int, ...] = ()
    store: int | None = None
    authenticated: bool = False

    @property
    def transport(self) -> str:
        """`unix` or `tcp`."""
        return "unix" if self.address.startswith("unix:") else "tcp"
