"""The addresses of sidecars: which targets gRPC can connect to, and how it takes them."""

import os
import re
import socket

from session_notes import _environment
from session_notes._errors import InvalidArgument

DEFAULT_TARGET = "127.0.0.1:50051"
"""Where clients look for a sidecar unless told: by argument, or by the environment variable `SESSION_NOTES_TARGET`."""

_HOST = re.compile(r"[A-Za-z0-9_.-]+")

# Their resolvers have configurations of their own, and names that say nothing of an address.
_UNCHECKED = ("xds:", "google-c2p:")

# The longest path that the address of a unix socket holds on Linux.
_LONGEST_PATH = 107

# What a URI holds as it is; gRPC reads a target as a URI, in which `#` and `?` end the path and `%41` is an A.
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/")


def target_or_default(target: str | None) -> str:
    """Return the address to call: the one given, else the environment's, else the default.

    Raises:
        InvalidArgument: It is no address of a sidecar, whatever listens where.
    """
    if target is not None and not isinstance(target, str):
        raise InvalidArgument(f"target must be a str, not {type(target).__name__}")
    _environment.warn_of_misspelt_names()
    if target:
        return _checked(target, "")
    if from_environment := _environment.variable("TARGET"):
        return _checked(from_environment, "SESSION_NOTES_TARGET: ")
    return DEFAULT_TARGET


def uri(target: str) -> str:
    """Return a target as gRPC takes it. The path of a unix socket stands in it letter by letter, once quoted."""
    scheme, colon, path = target.partition(":")
    if scheme not in ("unix", "unix-abstract"):
        return target
    return scheme + colon + "".join(chr(byte) if byte in _UNRESERVED else f"%{byte:02X}" for byte in os.fsencode(path))


def _checked(target: str, source: str) -> str:
    if target.startswith(_UNCHECKED) or _is_address(target):
        return target
    shown = target if target.isprintable() else repr(target)
    raise InvalidArgument(f"{source}{shown} is no address: write host:port or unix:/path")


def _is_address(target: str) -> bool:
    if target != target.strip() or not target.isprintable():
        return False
    scheme, _, rest = target.partition(":")
    if scheme == "unix":
        path = rest.removeprefix("//")
        absolute = path.startswith("/") or path == rest
        return absolute and path.strip("/ ") != "" and path == path.strip() and len(os.fsencode(path)) <= _LONGEST_PATH
    if scheme == "unix-abstract":
        return 0 < len(os.fsencode(rest)) < _LONGEST_PATH
    if scheme in ("ipv4", "ipv6"):
        family = socket.AF_INET if scheme == "ipv4" else socket.AF_INET6
        return all(_is_ip(family, _host_of(address)) for address in rest.split(","))
    host = _host_of(re.sub(r"^//[^/]*/", "", rest) if scheme == "dns" else target)
    if host.startswith("["):
        return host.endswith("]") and _is_ip(socket.AF_INET6, host)
    return _HOST.fullmatch(host) is not None


def _host_of(address: str) -> str:
    """Return the host of `host:port`; empty where either is missing or wrong."""
    host, _, port = address.rpartition(":")
    # gRPC takes a port that is missing for 443, and one beyond the last for another.
    return host if port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= 65535 else ""


def _is_ip(family: socket.AddressFamily, host: str) -> bool:
    try:
        socket.inet_pton(family, host.removeprefix("[").removesuffix("]").partition("%")[0])
    except OSError:
        return False
    return True
