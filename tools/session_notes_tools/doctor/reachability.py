"""Whether one gets to a sidecar, and gRPC can be spoken there: its address, the connection, TLS."""

from __future__ import annotations

import errno
import socket
import ssl
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

from session_notes import TLS
from session_notes_server.store import describe_error

from session_notes_tools.doctor import probe
from session_notes_tools.doctor.findings import Finding, ms, ok, problem, warning

EXPIRY_SOON = timedelta(days=14)

_START = "start it with session-notes serve, or say where it is with --target or SESSION_NOTES_TARGET"
ELSE = f"something else may be listening there; {_START}"
_ITS_OWNER = "the socket is its owner's alone: run this, and your clients, as the user of the sidecar"


def reached(target: str, tls: TLS | None, seconds: float) -> Generator[Finding, None, bool]:
    """Look at the address, the connection and what is spoken over it → whether gRPC can be."""
    try:
        place = probe.Place.of(target)
    except ValueError:
        yield problem("address", f"{target} is an address that only gRPC can resolve", "check it as host:port")
        return False
    began = time.monotonic()
    try:
        connection = place.connect(seconds)
    except OSError as error:
        yield _unreachable(target, error)
        return False
    yield ok("address", f"{target} takes connections, after {ms(time.monotonic() - began)}")
    if tls is None:
        with connection:
            said = _spoken_in_plain_text(connection, place, seconds)
    else:
        connection.close()
        said = yield from _spoken_over_tls(place, tls, seconds)
    if said is not None:
        yield said
        return False
    yield ok("protocol", "HTTP/2, as gRPC has it" + ("" if tls else "; without TLS"))
    return True


def _unreachable(target: str, error: OSError) -> Finding:
    if isinstance(error, TimeoutError):
        return problem(
            "address", f"nobody answers at {target}", "see whether the address is right, and no firewall is in between"
        )
    advice = _ITS_OWNER if error.errno == errno.EACCES else _START
    if isinstance(error, socket.gaierror):
        advice = "see whether the name is right, and known on this machine"
    return problem("address", f"no connection to {target}: {describe_error(error)}", advice)


def _spoken_in_plain_text(connection: socket.socket, place: probe.Place, seconds: float) -> Finding | None:
    """What is wrong with what is spoken there, if anything is."""
    try:
        other = probe.who_else(connection)
    except TimeoutError:
        return problem("protocol", "it takes connections and says nothing", ELSE)
    except OSError:
        if place.port and probe.speaks_tls(place, seconds):
            return problem("protocol", "TLS is spoken there", "give --tls-ca FILE, the authority of its certificate")
        return problem("protocol", "it ends the connection at once", ELSE)
    return problem("protocol", f"there is {other}, and no sidecar", ELSE) if other else None


def _spoken_over_tls(place: probe.Place, tls: TLS, seconds: float) -> Generator[Finding, None, Finding | None]:
    """Look at the certificate → what is wrong with what is spoken over TLS, if anything is."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert and tls.key:
            context.load_cert_chain(tls.cert, tls.key, password=lambda: b"")
    except (OSError, ValueError):
        return problem(
            "certificate",
            "what --tls-ca, --tls-cert or --tls-key name holds no certificate or no key to it",
            "they are PEM files; a key must not be encrypted",
        )
    context.set_alpn_protocols(["h2"])
    try:
        connection = probe.encrypted(place, context, seconds)
    except ssl.SSLCertVerificationError as error:
        return _not_trusted(place, context, error, seconds)
    except TimeoutError:
        return problem("protocol", "it takes connections and does not answer in TLS", ELSE)
    except OSError as error:
        if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
            return _not_taken(tls)
        return problem("protocol", "no TLS is spoken there", "leave --tls-ca out, or start the sidecar with --tls-cert")
    with connection:
        yield _certificate_in_order(connection.getpeercert() or {})
        try:
            other = probe.who_else(connection)
        except TimeoutError:
            return problem("protocol", "it takes connections and says nothing", ELSE)
        except OSError:
            # In TLS 1.3 our certificate is looked at when all seems done; gRPC then ends the connection without a word.
            return _not_taken(tls)
    return problem("protocol", f"there is {other}, and no sidecar", ELSE) if other else None


def _not_taken(tls: TLS) -> Finding:
    if tls.cert:
        return problem(
            "protocol",
            "it does not take our certificate",
            "--tls-cert must be of the authority that the sidecar has for --tls-client-ca, and not expired",
        )
    return problem("protocol", "it asks for a certificate of ours", "give --tls-cert and --tls-key")


def _certificate_in_order(shown: dict[str, Any]) -> Finding:
    ends = _when(shown["notAfter"])
    left = ends - datetime.now(UTC)
    says = f"for {_names(shown)}, until {ends:%Y-%m-%d}"
    if left < EXPIRY_SOON:
        return warning("certificate", f"{says}: {_days(left)} more", "renew it; the sidecar reads it again by itself")
    return ok("certificate", says)


def _not_trusted(
    place: probe.Place, context: ssl.SSLContext, error: ssl.SSLCertVerificationError, seconds: float
) -> Finding:
    """A certificate that is not for us, or not now, or of an authority nobody told us of."""
    shown = probe.certificate(place, context, seconds)
    if not shown:
        return problem(
            "certificate",
            f"it is not trusted: {error.verify_message.rstrip('.')}",
            "--tls-ca must name the authority that signed it",
        )
    begins, ends, now = _when(shown["notBefore"]), _when(shown["notAfter"]), datetime.now(UTC)
    if now > ends:
        return problem("certificate", f"it has expired {_days(now - ends)} ago, on {ends:%Y-%m-%d}", "renew it")
    if now < begins:
        return problem(
            "certificate", f"it counts from {begins:%Y-%m-%d} on", "see whether the clock of this machine is right"
        )
    return problem(
        "certificate",
        f"it is for {_names(shown)}, and not for {place.host}",
        "call the sidecar by a name in its certificate, or have a certificate made for this one",
    )


def _when(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _names(shown: dict[str, Any]) -> str:
    return ", ".join(name for _, name in shown.get("subjectAltName", ())) or "no name at all"


def _days(span: timedelta) -> str:
    return "1 day" if span.days == 1 else f"{span.days} days" if span.days else f"{span // timedelta(hours=1)} h"
