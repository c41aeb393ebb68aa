"""Why the store cannot be used, in words that an operator can act on.

The texts are fixed. What is taken over from an error are names out of small vocabularies: a Redis command, what OpenSSL
calls a fault. Never its text, which may hold a secret, or what a user said.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import ssl
from collections.abc import Iterator

from hiredis import ReplyError

from session_notes_server.store.errors import CODES, NotDone, Unusable, codes, meanings
from session_notes_server.store.log_throttle import LogThrottle
from session_notes_server.store.redis.connection import ConnectionLost
from session_notes_server.store.redis.sentinels import NoMaster

log = logging.getLogger(__name__)


def describe_error(error: BaseException | None, *, has_answered: bool = False) -> str:
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
    if error is None:
        return "unexpected answer"
    if isinstance(error, ConnectionLost):
        return "it closes the connection; is TLS (rediss://) spoken on both sides, or on neither?"
    return f"unexpected answer ({type(error).__name__})"


class RefusalLog:
    """Logs what the store refuses to calls, each reason ever more rarely. An outage is for health to log."""

    def __init__(self) -> None:
        self._repeats = LogThrottle()

    def record(self, error: BaseException | None) -> None:
        """Note the cause of a failed operation."""
        refused = isinstance(error, ReplyError) and any(code.refuses_calls for code in meanings(error))
        if not refused and not isinstance(error, NotDone):
            return
        why = describe_error(error)
        if (before := self._repeats.due(why)) is not None:
            log.warning("the store refuses calls: %s%s", why, f" ({before} since the last such line)" if before else "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _of_one(error: BaseException) -> str:
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, ReplyError):
        return _of_refusal(error)
    if isinstance(error, NoMaster):
        return _no_master(error.__cause__)
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


def _of_refusal(refusal: ReplyError) -> str:
    text = str(refusal)
    if "NOPERM" in codes(refusal):
        return _no_permission(text)
    for code in meanings(refusal):
        return code.words
    return next((why for part, why in _BY_TEXT.items() if part in text), "")


def _no_permission(text: str) -> str:
    if found := re.search(r"run the '([a-z]+(?:\|[a-z-]+)?)' command", text):
        return f"our user may not run the command {found[1]} (NOPERM); docs/operating.md has all that it needs"
    if "key" in text:
        return "our user may not use keys with our prefix (NOPERM)"
    return CODES["NOPERM"].words


def _no_master(cause: BaseException | None) -> str:
    if cause is None:
        return "no Sentinel that answers knows a master of that name that is up"
    said = codes(cause) if isinstance(cause, ReplyError) else set()
    advice = next((text for code, text in _SENTINEL_ADVICE.items() if code in said), "")
    return f"no Sentinel names a master: {describe_error(cause)}{advice}"


_SENTINEL_ADVICE = {
    "NOAUTH": "; give --sentinel-password-file",
    "WRONGPASS": "; see --sentinel-user and --sentinel-password-file",
}
# What has no code of its own.
_BY_TEXT = {
    "AUTH": "it has no password for our user, and we sent one",
    "cluster support disabled": "it is no cluster",
    "DB index is out of range": "it has no database of that number",
    "max number of clients": "it has as many clients as it takes (maxclients)",
    "SENTINEL": "it is no Sentinel",
    "unknown command": "it has not all the commands of a Redis 6.2 or newer",
}

_BY_TLS_FAULT = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS there: write redis://, if that is Redis",
    "UNEXPECTED_EOF_WHILE_READING": "it closes the connection in the TLS handshake: is that Redis, with TLS?",
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
    errno.ECONNRESET: "it resets the connection: is that Redis, and is TLS (rediss://) spoken on both sides, or on "
    "neither?",
    errno.EPIPE: "it closes the connection",
    errno.ENOENT: "there is no such socket",
    errno.EACCES: "we may not connect to the socket",
    errno.EHOSTUNREACH: "no route to its host",
    errno.ENETUNREACH: "no route to its host",
}
