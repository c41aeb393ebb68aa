"""Addresses: which of them we may listen on, and how we come to be the only one there."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc

from session_notes_server.credentials import Certificates
from session_notes_server.embedded import MAX_SOCKET_PATH_BYTES, lock_file
from session_notes_server.settings import InvalidSetting, Settings

log = logging.getLogger(__name__)


class AddressError(Exception):
    """An address cannot be listened on. Its text says to a user what to do."""


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
        host, _ = _host_and_port(address)
        if (settings.tls_cert and known_callers) or _is_loopback(address, host):
            continue
        if settings.insecure_listen:
            log.warning("%s can be reached from other machines, without TLS or by callers nobody knows", address)
            continue
        raise InvalidSetting(
            f"refusing to listen on {address}: others than this machine could read and change every session. Give "
            "--tls-cert and --tls-key, and --tokens-dir or --tls-client-ca, or listen on 127.0.0.1. If something else "
            "protects the address, say --insecure-listen."
        )


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port_text = address.rpartition(":")
    # gRPC would take the lack of a port for 443, and a port beyond the last one for another.
    if not colon or not (port_text.isascii() and port_text.isdecimal()) or int(port_text) > 65535:
        raise InvalidSetting(
            f"cannot listen on {address}: write host:port, with a port from 0 to 65535, or unix:/path."
        )
    return host.removeprefix("[").removesuffix("]"), int(port_text)


def _is_loopback(address: str, host: str) -> bool:
    """Whether all that a host stands for is loopback. Without a host it is every address, as gRPC has it."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        raise AddressError(
            f"cannot listen on {address}: it is no address of this machine. Choose another with --listen."
        ) from None
    return bool(found) and all(ipaddress.ip_address(entry[4][0]).is_loopback for entry in found)


@contextlib.contextmanager
def bound(server: grpc.aio.Server, address: str, certificates: Certificates | None) -> Iterator[str]:
    """Bind an address that `check_addresses` has passed → what it is called, with the port chosen for port 0.

    TCP is encrypted where there are certificates; a unix socket never leaves this machine, and never is.
    """
    with contextlib.ExitStack() as stack:
        if address.startswith("unix:"):
            stack.enter_context(_socket_of_our_own(Path(address.removeprefix("unix:"))))
        mask = os.umask(0o177)  # A unix socket is its owner's alone.
        try:
            if certificates is None or address.startswith("unix:"):
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, certificates.credentials)
        except RuntimeError:
            raise AddressError(
                f"cannot listen on {address}: it is taken, or no address of this machine. Choose another with --listen."
            ) from None
        finally:
            os.umask(mask)
        yield address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


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
        _check_directory(path)
        lock = lock_file(path.with_name(path.name + ".lock"))
        if lock is None:
            raise AddressError(f"cannot listen on unix:{path}: another sidecar does. Choose another with --listen.")
        with lock:
            if path.is_socket():
                path.unlink()
            elif path.exists():
                raise AddressError(
                    f"cannot listen on unix:{path}: something else is there. Choose another with --listen."
                )
            yield
    except OSError as error:
        raise AddressError(f"cannot listen on unix:{path}: {error.strerror}.") from None


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
