"""TCP addresses in settings, as `host:port`."""

from __future__ import annotations

import ipaddress
import socket

from session_notes_server.settings import InvalidSetting, StartupError


class AddressError(StartupError):
    """An address on which the sidecar cannot listen. The text tells an operator what to do."""


def host_and_port(address: str) -> tuple[str, int]:
    """Return the host of `host:port`, without the brackets of an IPv6 address, and the port.

    Raises:
        InvalidSetting: If the address is not `host:port`.
    """
    host, colon, port_text = address.rpartition(":")
    # gRPC would use port 443 for a missing port, and a wrong port for a number above 65535.
    if not colon or not (port_text.isascii() and port_text.isdecimal()) or int(port_text) > 65535:
        raise InvalidSetting(
            f"cannot listen on {address}: write host:port, with a port from 0 to 65535, or unix:/path."
        )
    return host.removeprefix("[").removesuffix("]"), int(port_text)


def is_loopback(address: str, host: str) -> bool:
    """Return whether a host resolves to loopback addresses only. An empty host means all addresses, as in gRPC.

    Args:
        address: The address in the setting, for the error text.
        host: Its host.

    Raises:
        AddressError: If the host does not resolve.
    """
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        raise AddressError(
            f"cannot listen on {address}: it is not an address of this machine. Choose another with --listen."
        ) from None
    return bool(entries) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in entries)
