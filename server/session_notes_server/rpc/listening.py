"""Addresses: which of them we may listen on, and how we come to be the only one there."""

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
from urllib.parse import quote

import grpc

from session_notes_server.addresses import AddressError, host_and_port, is_loopback
from session_notes_server.embedded.locks import lock_file
from session_notes_server.identity.callers import Certificates
from session_notes_server.settings import MAX_SOCKET_PATH_BYTES, InvalidSetting, Settings

log = logging.getLogger(__name__)


def check_addresses(settings: Settings) -> None:
    """See that nobody can reach us whom the settings do not keep out, before anything is started.

    Raises:
        AddressError: a host's name stands for no address.
        InvalidSetting: an address is written wrong, or is reachable from other machines, and not both encrypted and for
            known callers only.
    """
    known_callers = settings.tokens_dir is not None or settings.tls_client_ca is not None
    for address in settings.listen:
        if address.startswith("unix:"):
            if settings.tls_client_ca and not settings.tokens_dir:
                raise InvalidSetting(
                    f"cannot listen on {address}: a unix socket has no certificates, so nobody could call there. "
                    "Give --tokens-dir too."
                )
            continue
        host, _ = host_and_port(address)
        if (settings.tls_cert and known_callers) or is_loopback(address, host):
            continue
        if settings.channelz and not known_callers:
            raise InvalidSetting(
                f"refusing to listen on {address} with --channelz: it would tell everybody who is connected. Give "
                "--tokens-dir or --tls-client-ca, with which it is for the role admin, or listen on 127.0.0.1."
            )
        if settings.insecure_listen:
            log.warning("%s can be reached from other machines, without TLS or by callers nobody knows", address)
            continue
        raise InvalidSetting(
            f"refusing to listen on {address}: others than this machine could read and change every session. Give "
            "--tls-cert and --tls-key, and --tokens-dir or --tls-client-ca, or listen on 127.0.0.1. If something else "
            "protects the address, say --insecure-listen."
        )


@contextlib.contextmanager
def bound(server: grpc.aio.Server, address: str, certificates: Certificates | None, *, held: bool) -> Iterator[str]:
    """Bind an address that `check_addresses` has passed → what it is called, with the port chosen for port 0.

    TCP is encrypted where there are certificates; a unix socket never leaves this machine, and never is. An address
    that is `held` is so by our supervisor.
    """
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:") and not held:
            stack.enter_context(_socket_of_our_own(_path(address)))
        mask = os.umask(0o177)  # A unix socket is its owner's alone.
        try:
            if address.startswith("unix:"):
                # gRPC reads an URI.
                port = server.add_insecure_port(f"unix:{quote(os.fsencode(_path(address)))}")
            elif certificates is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, certificates.credentials)
        except RuntimeError:
            # It was free when we looked.
            raise _refused(address, errno.EADDRINUSE) from None
        finally:
            os.umask(mask)
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


@contextlib.contextmanager
def hold(address: str, *, shared: bool) -> Iterator[str]:
    """Keep an address from everybody else → what it is called, with the port chosen for port 0.

    Args:
        address: One that `check_addresses` has passed.
        shared: Whether our workers may listen there meanwhile, which takes Linux; else nobody does.

    Raises:
        AddressError: somebody else has it, or it is none of this machine.
        InvalidSetting: a unix socket's path cannot be one.
    """
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:"):
            stack.enter_context(_socket_of_our_own(_path(address)))
            yield address
            return
        host, port = host_and_port(address)
        try:
            for family, place in _places(host, port):
                holder = stack.enter_context(socket.socket(family))
                _take(holder, (place[0], port, *place[2:]))
                if shared:
                    _share(holder)
                port = holder.getsockname()[1]
        except OSError as error:
            raise _refused(address, error.errno) from None
        yield f"{address.rpartition(':')[0]}:{port}"


def _take(holder: socket.socket, place: tuple[Any, ...]) -> None:
    """Take a port as its only listener; one that the system chooses, without listening there."""
    if holder.family is socket.AF_INET6:
        # As gRPC has it: every address of IPv6 is every one of IPv4 too.
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    if place[1]:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(place)
    if place[1]:
        holder.listen()


def _share(holder: socket.socket) -> None:
    """Listen no more where we took a port, and only then let those of the same user in who share it.

    A socket that is bound and does not listen takes no connections, yet nobody may bind beside it without
    SO_REUSEPORT. It has to have listened: bound without SO_REUSEADDR, it would meet the connections of a sidecar that
    has just ended; with that alone, two supervisors could hold one port.
    """
    if holder.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        holder.shutdown(socket.SHUT_RDWR)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _places(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
    """What gRPC binds for a host: all it stands for; where that is every address, of IPv4, it is of IPv6 too."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    ipv6 = _has_ipv6()
    if ipv6 and any(ipaddress.ip_address(place[0]).is_unspecified for *_, place in found):
        return [(socket.AF_INET6, ("::", port))]
    return [(family, place) for family, *_, place in found if ipv6 or family is not socket.AF_INET6]


def _has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


def _refused(address: str, number: int | None) -> AddressError:
    why = {
        errno.EADDRINUSE: "it is taken",
        errno.EADDRNOTAVAIL: "it is no address of this machine",
        errno.EACCES: "this user may not, as a port below 1024 takes more rights",
    }.get(number or 0, "this machine refuses")
    return AddressError(f"cannot listen on {address}: {why}. Choose another with --listen.")


def _path(address: str) -> Path:
    return Path(address.removeprefix("unix:"))


@contextlib.contextmanager
def _socket_of_our_own(path: Path) -> Iterator[None]:
    """See to it that a unix socket has one owner, a mode, and no leftover in its place.

    gRPC would take over the path of a running server and, on leaving, delete that of its successor.
    """
    if not path.is_absolute():
        raise InvalidSetting(f"cannot listen on unix:{path}: the path must be absolute.")
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise InvalidSetting(
            f"cannot listen on unix:{path}: a socket's path has at most {MAX_SOCKET_PATH_BYTES} bytes."
        )
    try:
        # So that a directory which everybody may change, as volumes shared by containers are, can hold one of our own.
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _check_directory(path)
        lock_path = path.with_name(path.name + ".lock")
        is_ours = path.is_socket() and lock_path.exists()
        if path.exists() and not is_ours:
            raise AddressError(f"cannot listen on unix:{path}: something else is there. Choose another with --listen.")
        lock = lock_file(lock_path)
        if lock is None:
            raise AddressError(f"cannot listen on unix:{path}: another sidecar does. Choose another with --listen.")
        with lock:
            if is_ours:
                path.unlink(missing_ok=True)
            yield
    except OSError as error:
        raise AddressError(f"cannot listen on unix:{path}: {error.strerror}. Choose another with --listen.") from None


def _check_directory(path: Path) -> None:
    """See that nobody else can put a socket of theirs in the place of ours.

    The mode keeps others from connecting; whoever may change the directory could still be taken for us by our clients.
    A sticky directory such as /tmp will do: there, others cannot touch what is not theirs.
    """
    status = path.parent.stat()
    if status.st_uid not in {os.geteuid(), 0}:
        raise AddressError(
            f"cannot listen on unix:{path}: the directory is another user's. Choose one of your own with --listen."
        )
    if status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX:
        raise AddressError(
            f"cannot listen on unix:{path}: others can change the directory. Make it private: chmod 700 {path.parent}"
        )
