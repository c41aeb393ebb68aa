"""Listening addresses: checks that they are safe, and exclusive use of each."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from session_notes_server.addresses import AddressError, host_and_port, is_loopback
from session_notes_server.embedded.locks import lock_file
from session_notes_server.settings import MAX_SOCKET_PATH_BYTES, InvalidSetting, Settings

log = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections that the kernel completes while this process is busy. The kernel applies its own limit as well."""


def check_addresses(settings: Settings) -> None:
    """Check, before anything starts, that the addresses are reachable only as the settings permit.

    Raises:
        AddressError: If a host does not resolve.
        InvalidSetting: If an address is malformed, or is reachable from other machines without both TLS and
            authentication.
    """
    authenticated = settings.tokens_dir is not None or settings.tls_client_ca is not None
    for address in settings.listen:
        if address.startswith("unix:"):
            if settings.tls_client_ca and not settings.tokens_dir:
                raise InvalidSetting(
                    f"cannot listen on {address}: callers on a unix socket have no certificate, and all would be "
                    "rejected. Give --tokens-dir too."
                )
            continue
        host, _ = host_and_port(address)
        if (settings.tls_cert and authenticated) or is_loopback(address, host):
            continue
        if settings.channelz and not authenticated:
            raise InvalidSetting(
                f"refusing to listen on {address} with --channelz: any caller could list the connected peers. Give "
                "--tokens-dir or --tls-client-ca, which limit channelz to the role admin, or listen on 127.0.0.1."
            )
        if settings.insecure_listen:
            log.warning("%s can be reached from other machines without TLS or without authentication", address)
            continue
        raise InvalidSetting(
            f"refusing to listen on {address}: other machines could read and change every session. Give --tls-cert and "
            "--tls-key, and --tokens-dir or --tls-client-ca, or listen on 127.0.0.1. If something else protects the "
            "address, give --insecure-listen."
        )


@contextlib.contextmanager
def hold(address: str, *, shared: bool) -> Iterator[str]:
    """Reserve an address for this process, and yield the address with the actual port.

    On a `shared` address, worker processes can listen meanwhile, which requires Linux. `check_addresses` must have
    accepted the address.

    Raises:
        AddressError: If the address is in use, or is not an address of this machine.
        InvalidSetting: If the path of a unix socket is not usable.
    """
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:"):
            stack.enter_context(exclusive_socket(socket_path(address)))
            yield address
            return
        host, port = host_and_port(address)
        try:
            for family, sockaddr in _sockaddrs(host, port):
                holder = stack.enter_context(_tcp_socket(family))
                _reserve(holder, (sockaddr[0], port, *sockaddr[2:]))
                if shared:
                    _share(holder)
                port = holder.getsockname()[1]
        except OSError as error:
            raise bind_error(address, error.errno) from None
        yield f"{address.rpartition(':')[0]}:{port}"


@contextlib.contextmanager
def sockets(address: str, *, held: bool) -> Iterator[tuple[list[socket.socket], str]]:
    """Listen on an address, and yield the sockets and the address with the actual port.

    The supervisor has already reserved a `held` address. `check_addresses` must have accepted the address.

    Raises:
        AddressError: If the address is in use, or is not an address of this machine.
        InvalidSetting: If the path of a unix socket is not usable.
    """
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:"):
            path = socket_path(address)
            if held:
                path.unlink(missing_ok=True)  # Of a worker that this one replaces.
            else:
                stack.enter_context(exclusive_socket(path))
            listening = stack.enter_context(socket.socket(socket.AF_UNIX))
            mask = os.umask(0o177)  # Only its owner may use a unix socket.
            try:
                listening.bind(str(path))
                stack.callback(path.unlink, missing_ok=True)
                listening.listen(BACKLOG)
            except OSError as error:
                raise bind_error(address, error.errno) from None
            finally:
                os.umask(mask)
            yield [listening], address
            return
        host, port = host_and_port(address)
        opened = list[socket.socket]()
        try:
            for family, sockaddr in _sockaddrs(host, port):
                opened.append(listening := stack.enter_context(_tcp_socket(family)))
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if held else socket.SO_REUSEADDR, 1)
                listening.bind((sockaddr[0], port, *sockaddr[2:]))
                listening.listen(BACKLOG)
                port = listening.getsockname()[1]
        except OSError as error:
            raise bind_error(address, error.errno) from None
        yield opened, f"{address.rpartition(':')[0]}:{port}"


def _tcp_socket(family: socket.AddressFamily) -> socket.socket:
    created = socket.socket(family)
    if family is socket.AF_INET6:
        # Like gRPC, so that the IPv6 wildcard address includes all IPv4 addresses.
        created.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return created


def _reserve(holder: socket.socket, sockaddr: tuple[Any, ...]) -> None:
    """Listen on the given port as its only listener, or for port 0 bind a port that the system chooses."""
    if sockaddr[1]:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(sockaddr)
    if sockaddr[1]:
        holder.listen()


def _share(holder: socket.socket) -> None:
    """Stop listening on a port, and then let processes of the same user share it.

    A socket that is bound but not listening accepts no connections, and still prevents sockets without SO_REUSEPORT
    from binding its port. On a given port, the socket must first have listened: binding without SO_REUSEADDR would fail
    while connections of a sidecar that has just ended remain, and binding with it, but never listening, would let two
    supervisors hold one port.
    """
    if holder.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.shutdown(socket.SHUT_RDWR)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _sockaddrs(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """Return the addresses that gRPC binds for a host: all of them, or the IPv6 wildcard in place of any wildcard."""
    entries = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    ipv6 = _has_ipv6()
    if ipv6 and any(ipaddress.ip_address(sockaddr[0]).is_unspecified for *_, sockaddr in entries):
        return [(socket.AF_INET6, ("::", port))]
    return [(family, sockaddr) for family, *_, sockaddr in entries if ipv6 or family is not socket.AF_INET6]


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def bind_error(address: str, number: int | None) -> AddressError:
    """Return the error for an address that cannot be bound, with the reason for an errno."""
    reason = {
        errno.EADDRINUSE: "it is in use",
        errno.EADDRNOTAVAIL: "it is not an address of this machine",
        errno.EACCES: "this user may not bind it, because ports below 1024 require more privileges",
    }.get(number or 0, "the system does not allow it")
    return AddressError(f"cannot listen on {address}: {reason}. Choose another with --listen.")


def socket_path(address: str) -> Path:
    """Return the path in the address of a unix socket."""
    return Path(address.removeprefix("unix:"))


@contextlib.contextmanager
def exclusive_socket(path: Path) -> Iterator[None]:
    """Reserve the path of a unix socket, create its private directory, and remove a stale socket.

    grpc.aio alone would take over the path of a running server, and on shutdown delete the socket of its successor.
    """
    if not path.is_absolute():
        raise InvalidSetting(f"cannot listen on unix:{path}: the path must be absolute.")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise InvalidSetting(
            f"cannot listen on unix:{path}: a socket's path must not exceed {MAX_SOCKET_PATH_BYTES} bytes."
        )
    try:
        # Its parent may be world-writable, such as a volume shared by containers.
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_directory(path)
        lock_path = path.with_name(path.name + ".lock")
        is_stale = path.is_socket() and lock_path.exists()
        if path.exists() and not is_stale:
            raise AddressError(
                f"cannot listen on unix:{path}: another file has this path. Choose another with --listen."
            )
        lock = lock_file(lock_path)
        if lock is None:
            raise AddressError(
                f"cannot listen on unix:{path}: another sidecar is listening. Choose another with --listen."
            )
        with lock:
            if is_stale:
                path.unlink(missing_ok=True)
            yield
    except OSError as error:
        raise AddressError(f"cannot listen on unix:{path}: {error.strerror}. Choose another with --listen.") from None


def _check_directory(path: Path) -> None:
    """Check that no other user can replace the socket with one of their own.

    The socket's mode prevents other users from connecting. A user who can change the directory could still impersonate
    the sidecar to its clients. A sticky directory such as /tmp is safe, because other users cannot remove the socket.
    """
    status = path.parent.stat()
    if status.st_uid not in {os.geteuid(), 0}:
        raise AddressError(
            f"cannot listen on unix:{path}: its directory belongs to another user. Choose another with --listen."
        )
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise AddressError(
            f"cannot listen on unix:{path}: other users can change its directory. Make it private: chmod 700 "
            f"{path.parent}"
        )
