"""Why the store cannot be used, in words somebody can act on.

The texts are fixed. What is taken over from an error are names out of small vocabularies: a Redis command, what OpenSSL
calls a fault. Never its text, which may hold a secret, or what a user said.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import ssl
import time
from collections.abc import Iterator

from hiredis import ReplyError

from session_notes_server.store.connection import NoMaster
from session_notes_server.store.failures import codes
from session_notes_server.store.link import LinkLost

log = logging.getLogger(__name__)

REPEAT_SECONDS = 60.0


def reason(error: BaseException | None, *, has_answered: bool = False) -> str:
    """Why an operation failed: the first error, of those that led to this one, that says more than that it did.

    Args:
        error: What it has failed of.
        has_answered: Whether the store has answered before; if so, its silence casts no doubt on how we reach it.
    """
    for one in _chain(error):
        if has_answered and isinstance(one, TimeoutError):
            return "no answer in time"
        if known := _of_one(one):
            return known
    if isinstance(error, LinkLost):
        return "it closes the connection; is TLS (rediss://) spoken on both sides, or on neither?"
    return f"unexpected answer ({type(error).__name__})"


class Refusals:
    """Tells the log of what the store refuses while it answers others, and pings: each reason at most once a minute.

    An outage is health's to tell.
    """

    def __init__(self) -> None:
        self._next: dict[str, float] = {}

    def tell(self, error: BaseException | None) -> None:
        """Note what an operation has failed of."""
        if not isinstance(error, ReplyError) or _REFUSALS.isdisjoint(codes(error)):
            return
        why, now = reason(error), time.monotonic()
        if now >= self._next.get(why, now):
            self._next[why] = now + REPEAT_SECONDS
            log.warning("the store refuses calls: %s", why)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_one(error: BaseException) -> str:
    if isinstance(error, ReplyError):
        for code in codes(error):
            if code == "NOPERM":
                return _no_permission(str(error))
            if code in _BY_CODE:
                return _BY_CODE[code]
        for text, why in _BY_TEXT.items():
            if text in str(error):
                return why
    if isinstance(error, NoMaster):
        return "no Sentinel that answers knows a master of that name that is up"
    if isinstance(error, ssl.SSLCertVerificationError):
        # The words of OpenSSL, and the name we asked for.
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return _BY_TLS_FAULT.get(error.reason, f"TLS failed ({error.reason})")
    if isinstance(error, socket.gaierror):
        return "the name of its host is not found"
    if isinstance(error, TimeoutError):
        return "no answer in time; is the address right, and TLS (rediss://) spoken on both sides, or on neither?"
    if isinstance(error, OSError):
        # Where a name has several addresses, asyncio has the numbers of their errors in its text alone.
        numbers = {error.errno} if error.errno else {int(n) for n in re.findall(r"\[Errno (\d+)\]", str(error))}
        return _BY_ERRNO.get(numbers.pop(), "") if len(numbers) == 1 else ""
    return ""


def _no_permission(text: str) -> str:
    if found := re.search(r"run the '([a-z]+(?:\|[a-z]+)?)' command", text):
        return f"our user may not run the command {found[1]} (NOPERM); docs/operating.md has all that it needs"
    if "key" in text:
        return "our user may not use keys with our prefix (NOPERM)"
    return "our user may not run a command inside our scripts (NOPERM); docs/operating.md has all that it needs"


_BY_CODE = {
    "WRONGPASS": "wrong user or password (WRONGPASS)",
    "NOAUTH": "it asks for a user or a password, and we have none (NOAUTH)",
    "LOADING": "it is still loading its data (LOADING)",
    "BUSY": "it is busy with somebody's script (BUSY)",
    "MASTERDOWN": "it is a replica that has lost its master (MASTERDOWN)",
    "READONLY": "it is a read-only replica (READONLY)",
    "OOM": "it is out of memory (OOM)",
    "MISCONF": "it cannot write to its disk (MISCONF)",
    "NOREPLICAS": "it has too few replicas (NOREPLICAS)",
    "MOVED": "it is a node of a cluster: write redis+cluster:// or rediss+cluster:// (MOVED)",
    "CLUSTERDOWN": "the cluster is down, or has a slot that no node serves (CLUSTERDOWN)",
}
# What has no code of its own.
_BY_TEXT = {
    "AUTH": "it has no password for our user, and we sent one",
    "cluster support disabled": "it is no cluster",
    "DB index is out of range": "it has no database of that number",
}
# What a store may answer to one command and not to a ping.
_REFUSALS = frozenset({"NOPERM", "READONLY", "OOM", "MISCONF", "NOREPLICAS", "MOVED"})

_BY_TLS_FAULT = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS there",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it asks for a certificate of ours (--redis-cert)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the TLS handshake; does it ask for a certificate (--redis-cert)?",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust our certificate: unknown authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not trust our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "it does not trust our certificate: expired",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it speaks no version of TLS that we do: 1.2 or newer",
    "UNSUPPORTED_PROTOCOL": "it speaks no version of TLS that we do: 1.2 or newer",
}

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused: nobody listens there",
    errno.ECONNRESET: "it resets the connection; is TLS (rediss://) spoken on both sides, or on neither?",
    errno.EPIPE: "it closes the connection",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "we may not connect to the socket",
    errno.EHOSTUNREACH: "no route to its host",
    errno.ENETUNREACH: "no route to its host",
}
