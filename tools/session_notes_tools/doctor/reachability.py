"""Checks of whether a sidecar can be reached: its address, the connection, TLS and HTTP/2."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

from session_notes import TLS
from session_notes_server.store.inspection import describe_error

from session_notes_tools.doctor import probe
from session_notes_tools.doctor.findings import Finding, ms, ok, problem, warning

EXPIRY_WARNING = timedelta(days=14)

_START = "start the sidecar with `session-notes serve`, or give its address with --target or SESSION_NOTES_TARGET"
OTHER_SERVER = f"another server may be listening there; {_START}"
_SOCKET_OWNER = "only its owner can use the socket; run the doctor and your clients as the sidecar's user"


def check_reachability(target: str, tls: TLS | None, seconds: float) -> Generator[Finding, None, bool]:
    """Check the address, the connection and the protocol.

    Returns:
        Whether the server speaks HTTP/2, over TLS if requested.
    """
    try:
        address = probe.SocketAddress.parse(target)
    except ValueError:
        yield problem("address", f"only gRPC can resolve {target}", "give the sidecar's address as host:port")
        return False
    began = time.monotonic()
    try:
        connection = address.connect(seconds)
    except OSError as error:
        yield _unreachable(target, error)
        return False
    yield ok("address", f"{target} accepted a connection after {ms(time.monotonic() - began)}")
    if tls is None:
        with connection:
            fault = _plain_text_fault(connection, address, seconds)
    else:
        connection.close()
        fault = yield from _tls_fault(address, tls, seconds)
    if fault is not None:
        yield fault
        return False
    yield ok("protocol", "HTTP/2" + ("" if tls else ", without TLS"))
    return True


def _unreachable(target: str, error: OSError) -> Finding:
    if isinstance(error, TimeoutError):
        return problem("address", f"no response from {target}", "check the address, and whether a firewall blocks it")
    advice = _SOCKET_OWNER if error.errno == errno.EACCES else _START
    if isinstance(error, socket.gaierror):
        advice = "check the host name, and whether this machine can resolve it"
    return problem("address", f"cannot connect to {target} ({describe_error(error)})", advice)


def _other_server(kind: str) -> Finding | None:
    return problem("protocol", f"not a sidecar: {kind}", OTHER_SERVER) if kind else None


def _plain_text_fault(connection: socket.socket, address: probe.SocketAddress, seconds: float) -> Finding | None:
    """Return the problem with the protocol spoken without TLS, if there is one."""
    try:
        return _other_server(probe.other_server(connection))
    except TimeoutError:
        return problem("protocol", "it accepts connections but does not respond", OTHER_SERVER)
    except OSError:
        if address.port and probe.speaks_tls(address, seconds):
            return problem(
                "protocol", "it requires TLS", "give --tls-ca FILE, with the authority that signed its certificate"
            )
        return problem("protocol", "it closes the connection immediately", OTHER_SERVER)


def _tls_fault(address: probe.SocketAddress, tls: TLS, seconds: float) -> Generator[Finding, None, Finding | None]:
    """Check the certificate, and return the problem with the protocol spoken over TLS, if there is one."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert and tls.key:
            context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError):
        return problem(
            "certificate",
            "a file of --tls-ca, --tls-cert or --tls-key contains no certificate or no matching key",
            "use PEM files, and an unencrypted key",
        )
    context.set_alpn_protocols(["h2"])
    try:
        connection = probe.connect_tls(address, context, seconds)
    except ssl.SSLCertVerificationError as error:
        return _untrusted(address, context, error, seconds)
    except TimeoutError:
        return problem("protocol", "it accepts connections but does not respond over TLS", OTHER_SERVER)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return _client_certificate_rejected(tls)
        return problem("protocol", "it does not speak TLS", "omit --tls-ca, or start the sidecar with --tls-cert")
    with connection:
        yield _trusted(connection.getpeercert() or {})
        try:
            return _other_server(probe.other_server(connection))
        except TimeoutError:
            return problem("protocol", "it accepts connections but does not respond", OTHER_SERVER)
        except OSError:
            # In TLS 1.3, the server checks a client certificate after the handshake and closes the connection.
            return _client_certificate_rejected(tls)


def _client_certificate_rejected(tls: TLS) -> Finding:
    if tls.cert:
        return problem(
            "protocol",
            "it rejects your certificate",
            "--tls-cert must be signed by the authority in the sidecar's --tls-client-ca, and not expired",
        )
    return problem("protocol", "it requires a client certificate", "give --tls-cert and --tls-key")


def _trusted(certificate: dict[str, Any]) -> Finding:
    end = _time(certificate["notAfter"])
    left = end - datetime.now(UTC)
    says = f"for {_names(certificate)}, valid until {end:%Y-%m-%d}"
    if left < EXPIRY_WARNING:
        return warning("certificate", f"{says}: {_days(left)} left", "renew it; the sidecar reloads it automatically")
    return ok("certificate", says)


def _untrusted(
    address: probe.SocketAddress, context: ssl.SSLContext, error: ssl.SSLCertVerificationError, seconds: float
) -> Finding:
    """Return the reason for not trusting a certificate: its authority, its dates or its names."""
    certificate = probe.peer_certificate(address, context, seconds)
    if not certificate:
        return problem(
            "certificate",
            f"it is not trusted: {error.verify_message.rstrip('.')}",
            "--tls-ca must contain the authority that signed it",
        )
    begin, end, now = _time(certificate["notBefore"]), _time(certificate["notAfter"]), datetime.now(UTC)
    if now > end:
        return problem("certificate", f"it expired {_days(now - end)} ago, on {end:%Y-%m-%d}", "renew it")
    if now < begin:
        return problem("certificate", f"it is valid only from {begin:%Y-%m-%d}", "check the clock of this machine")
    return problem(
        "certificate",
        f"it is for {_names(certificate)}, not for {address.host}",
        "call the sidecar by a name in its certificate, or issue a certificate for this name",
    )


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _names(certificate: dict[str, Any]) -> str:
    return ", ".join(name for _, name in certificate.get("subjectAltName", ())) or "no name at all"


def _days(span: timedelta) -> str:
    return "1 day" if span.days == 1 else f"{span.days} days" if span.days else f"{span // timedelta(hours=1)} h"
