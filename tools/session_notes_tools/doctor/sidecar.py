"""What is checked of a sidecar, from the outside in, as far as one gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from session_notes import TLS, Endpoint, InvalidArgument, SessionNotesError, TokenFile

from session_notes_tools.doctor import calls
from session_notes_tools.doctor.contract import contract
from session_notes_tools.doctor.findings import Finding, problem, skipped
from session_notes_tools.doctor.reachability import reached


@dataclass(frozen=True, slots=True)
class Asked:
    """What the sidecar is asked with.

    Attributes:
        target: Where it is.
        token: Reads the token to call with; None: none is given but what the environment has.
        tls: How to encrypt; None: not at all.
        timeout: How long each step may take.
    """

    target: str
    token: Callable[[], TokenFile | None]
    tls: Callable[[], TLS | None]
    timeout: timedelta

    @property
    def seconds(self) -> float:
        """The same, in seconds."""
        return self.timeout.total_seconds()


def checked(asked: Asked, *, write: bool) -> Iterator[Finding]:
    """Check a sidecar, as far as one gets.

    Args:
        asked: Which, and how.
        write: Whether to write and delete notes, too, in a session of our own. Else nothing is changed there.
    """
    try:
        token, tls = asked.token(), asked.tls()
        if fault := _target_fault(asked.target, tls):
            yield fault
            return
        endpoint = Endpoint(asked.target, token=token, tls=tls)
        channel = endpoint.open_channel()
    except SessionNotesError as error:
        # Of the clients' own checks, whose texts hold names of files and options alone.
        yield problem("options", str(error), "see session-notes doctor --help, under Common options")
        return
    with channel:
        spoken = yield from reached(asked.target, endpoint.tls, asked.seconds)
        if not spoken:
            return
        serving = yield from calls.health(channel, asked.seconds)
        if serving is None:
            return
        sent = endpoint.metadata()
        metadata = tuple(sent) if sent else None
        certificate = endpoint.tls is not None and endpoint.tls.cert is not None
        known = yield from calls.who_we_are(channel, metadata, asked.seconds, certificate=certificate)
        if not known:
            return
        yield contract(channel, metadata, asked.seconds)
        if serving:
            yield calls.reads(channel, metadata, asked.seconds)
            if write:
                yield from calls.round_trip(asked.target, token, endpoint.tls, asked.timeout)
        else:
            yield skipped("reads", "not tried while it is not ready")


def _target_fault(target: str, tls: TLS | None) -> Finding | None:
    """Return what the clients object to in a target, in their words."""
    try:
        # Without a token, the target is all that can be wrong.
        Endpoint(target, tls=tls, anonymous=True)
    except InvalidArgument as error:
        says, _, advice = str(error).rpartition(": ")
        return problem("address", says, advice)
    return None
