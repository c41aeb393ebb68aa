"""Addresses of sidecars: validation, and the spellings that gRPC and other modules need."""

from __future__ import annotations

import os
import re
import socket

from session_notes import _environment
from session_notes._errors import InvalidArgument

DEFAULT_TARGET = "127.0.0.1:50051"
"""Address of the sidecar, unless the argument or the environment variable `SESSION_NOTES_TARGET` names another."""

_HOST = r"[A-Za-z0-9_.-]+"

# These resolvers have their own configuration. Their names are not addresses.
_UNCHECKED = ("xds:", "google-c2p:")

# Longest path in the address of a unix socket on Linux.
_MAX_PATH_BYTES = 107

# Characters of a path that need no quoting in a URI. gRPC parses a target as a URI, in which `#` and `?` end the path
# and `%41` is an A.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


def target_or_default(target: str | None) -> str:
    """Return the target to connect to: the argument, else the environment variable, else the default.

    Raises:
        InvalidArgument: If it is not an address. Whether anything listens on it is not checked.
    """
    if target is not None and not isinstance(target, str):
        raise InvalidArgument(f"target must be a str, not {type(target).__name__}")
    _environment.warn_of_misspelt_names()
    if target:
        return _validated(target, "")
    if from_environment := _environment.variable("TARGET"):
        return _validated(from_environment, "SESSION_NOTES_TARGET: ")
    return DEFAULT_TARGET


def uri(target: str) -> str:
    """Return a target as gRPC needs it, with the path of a unix socket quoted."""
    scheme, colon, path = target.partition(":")
    if scheme not in ("unix", "unix-abstract"):
        return target
    return scheme + colon + "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in os.fsencode(path))


def is_unix(target: str) -> bool:
    """Return whether a target is a unix socket."""
    return target.startswith(("unix:", "unix-abstract:"))


def without_scheme(target: str) -> str:
    """Return the part of a network target after its resolver: `host:port`, or several with commas."""
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:"):
        if target.startswith(scheme):
            return target.removeprefix(scheme)
    return target


def canonical(target: str) -> str:
    """Return the same spelling for all targets of one sidecar. Clients in a process may spell it differently."""
    if target.startswith("unix://"):
        return "unix:" + target.removeprefix("unix://")
    address = without_scheme(target)
    host, colon, port = address.rpartition(":")
    return f"127.0.0.1:{port}" if colon and host.lower() in ("localhost", "[::1]") else address


def is_loopback(target: str) -> bool:
    """Return whether all addresses of a network target are loopback addresses.

    The only accepted host name is `localhost`, because names are not resolved.
    """
    import ipaddress  # Needed only for a client with a token.

    for address in without_scheme(target).split(","):
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            return False
        try:
            if host != "localhost" and not ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback:
                return False
        except ValueError:
            return False
    return True


def _validated(target: str, source: str) -> str:
    if target.startswith(_UNCHECKED) or _is_address(target):
        return target
    shown = target if target.isprintable() else repr(target)
    raise InvalidArgument(f"{source}{shown} is not an address: use host:port or unix:/path")


def _is_address(target: str) -> bool:
    if target != target.strip() or not target.isprintable():
        return False
    scheme, _, rest = target.partition(":")
    if scheme == "unix":
        path = rest.removeprefix("//")
        absolute = path.startswith("/") or path == rest
        return (
            absolute and path.strip("/ ") != "" and path == path.strip() and len(os.fsencode(path)) <= _MAX_PATH_BYTES
        )
    if scheme == "unix-abstract":
        return 0 < len(os.fsencode(rest)) < _MAX_PATH_BYTES
    if scheme in ("ipv4", "ipv6"):
        family = socket.AF_INET if scheme == "ipv4" else socket.AF_INET6
        return all(_is_ip(family, _host_of(address)) for address in rest.split(","))
    host = _host_of(re.sub(r"^//[^/]*/", "", rest) if scheme == "dns" else target)
    if host.startswith("["):
        return host.endswith("]") and _is_ip(socket.AF_INET6, host)
    return re.fullmatch(_HOST, host) is not None


def _host_of(address: str) -> str:
    """Return the host of `host:port`. Empty if either is missing or invalid."""
    host, _, port = address.rpartition(":")
    # gRPC replaces a missing port with 443, and truncates one that is too large.
    return host if port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 65535 else ""


def _is_ip(family: socket.AddressFamily, host: str) -> bool:
    try:
        socket.inet_pton(family, host.removeprefix("[").removesuffix("]").partition("%")[0])
    except OSError:
        return False
    return True
