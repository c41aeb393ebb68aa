"""All checks of a sidecar, in order, up to the first problem that makes the remaining checks pointless."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

from session_notes import TLS, Endpoint, InvalidArgument, SessionNotesError, TokenFile

from session_notes_tools.doctor import calls
from session_notes_tools.doctor.contract import check_contract
from session_notes_tools.doctor.findings import Finding, problem, skipped
from session_notes_tools.doctor.reachability import check_reachability


def check_sidecar(
    target: str,
    read_token: Callable[[], TokenFile | None],
    read_tls: Callable[[], TLS | None],
    timeout: timedelta,
    *,
    write: bool,
) -> Iterator[Finding]:
    """Check a sidecar.

    Args:
        target: Its address.
        read_token: Returns the token, or None for the one named in the environment, if any.
        read_tls: Returns the certificates, or None for those named in the environment, if any.
        timeout: The limit for each step.
        write: Whether to write and delete notes too, in a temporary session. Otherwise, nothing is changed.
    """
    try:
        token, tls = read_token(), read_tls()
        if fault := _target_fault(target, tls):
            yield fault
            return
        endpoint = Endpoint(target, token=token, tls=tls)
        channel = endpoint.open_channel()
    except SessionNotesError as error:
        # An error from the client's own checks; it names only files and options.
        yield problem("options", str(error), "see session-notes doctor --help, under Common options")
        return
    seconds = timeout.total_seconds()
    with channel:
        reachable = yield from check_reachability(target, endpoint.tls, seconds)
        if not reachable:
            return
        ready = yield from calls.check_health(channel, seconds)
        if ready is None:
            return
        metadata = tuple(endpoint.metadata()) or None
        certificate = endpoint.tls is not None and endpoint.tls.cert is not None
        admitted = yield from calls.check_credentials(channel, metadata, seconds, certificate=certificate)
        if not admitted:
            return
        yield check_contract(channel, metadata, seconds)
        if ready:
            yield calls.check_reads(channel, metadata, seconds)
            if write:
                yield from calls.check_round_trip(target, token, endpoint.tls, timeout)
        else:
            yield skipped("reads", "not checked while the sidecar is not ready")


def _target_fault(target: str, tls: TLS | None) -> Finding | None:
    """Return the problem with a target that the clients reject, if they do, in their words."""
    try:
        # Without a token, only the target can be invalid.
        Endpoint(target, tls=tls, anonymous=True)
    except InvalidArgument as error:
        says, _, advice = str(error).rpartition(": ")
        return problem("address", says, advice)
    return None
