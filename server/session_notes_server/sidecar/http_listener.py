"""The HTTP address of `session-notes mcp`, subject to the sidecar's rules for addresses, tokens and certificates."""

from __future__ import annotations

import socket
from pathlib import Path

from session_notes_server.addresses import AddressError, host_and_port, is_loopback
from session_notes_server.identity.callers import Caller, Certificates, Tokens
from session_notes_server.identity.roles import Role

_WILDCARD_NAMES = {"", "0.0.0.0", "[::]"}  # noqa: S104 - recognized, not listened on


class HttpListener:
    """An HTTP address for readers of notes. It is checked on construction.

    Args:
        address: `host:port`. Port 0 means any free port.
        tokens_dir: The directory with the tokens of each role. None: callers need no token.
        cert: The certificate for TLS, a PEM file. None: no TLS.
        key: The certificate's private key.

    Attributes:
        loopback: Whether only this machine can reach the address.
        names: The host names that callers may use; empty for a wildcard address.

    Raises:
        InvalidSetting: If the address is not `host:port`.
        StartupError: If the host does not resolve, or a file cannot be used.
    """

    def __init__(self, address: str, tokens_dir: Path | None, cert: Path | None, key: Path | None) -> None:
        self._address = address
        self._host, self._port = host_and_port(address)
        self._tokens = Tokens(tokens_dir) if tokens_dir else None
        self._name = f"[{self._host}]" if ":" in self._host else self._host
        self._scheme = "https" if cert and key else "http"
        self.loopback = is_loopback(address, self._host)
        self.names = [] if self._name in _WILDCARD_NAMES else [self._name]
        if cert and key:
            # The HTTP server loads the files itself. This only checks their owner, mode and content.
            Certificates(cert, key, None)

    def accepts_token(self, token: str) -> bool:
        """Return whether a token's role may read notes and sessions. A token for some sessions only is not accepted."""
        caller = self._tokens.caller_of(token) if self._tokens is not None else None
        return caller in (Caller(Role.PRIMARY), Caller(Role.ADMIN))

    def open(self) -> tuple[socket.socket, str]:
        """Listen, and return the socket and its URL.

        Raises:
            AddressError: If the address is in use, or is not an address of this machine.
        """
        try:
            entries = socket.getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # A name such as localhost has addresses of both families, and most callers use IPv4.
            family, _, _, _, socket_address = min(entries, key=lambda entry: entry[0] is not socket.AF_INET)
            listener = socket.create_server(socket_address[:2], family=family)
        except OSError:
            raise AddressError(
                f"cannot listen on {self._address}: it is in use, or is not an address of this machine. Choose "
                "another with --listen."
            ) from None
        return listener, f"{self._scheme}://{self._name}:{listener.getsockname()[1]}"
