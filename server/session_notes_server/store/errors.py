"""Store errors: their meaning, whether they are transient, and their descriptions in the log.

Descriptions are fixed texts. The only words copied from an error come from small vocabularies, such as the name of a
Redis command or of an OpenSSL fault. The text of an error is never copied, because it may contain secrets or user data.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hiredis import ReplyError


class StoreUnavailable(Exception):
    """The store is unreachable, too slow, or temporarily refuses the operation. The outcome of a write is unknown."""


class Refused(Exception):
    """The store's rules refused an operation. Nothing was changed.

    Attributes:
        name: The refusal, as the script names it.
        details: Names and values for the caller.
    """

    def __init__(self, name: str, details: Mapping[str, str]) -> None:
        super().__init__(name)
        self.name = name
        self.details = details


class ReplyTooLarge(Exception):
    """The result is larger than the caller accepts.

    Attributes:
        size: Size of the result in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class ConnectionLost(ConnectionError):
    """The connection was lost. Commands without a reply may or may not have been executed.

    Attributes:
        replies: Replies received before the loss, if several commands were sent together.
    """

    def __init__(self, replies: Sequence[Any] = ()) -> None:
        super().__init__()
        self.replies = replies


class Unusable(ConnectionError):
    """A store, a node or a Sentinel that cannot be used. The message is a fixed text for the log, without secrets."""


class Unresponsive(Unusable, TimeoutError):
    """A store, a node or a Sentinel that does not answer in time."""


class Unconfirmed(Unusable):
    """A call that the store did not execute or did not confirm, although it may serve other calls."""


class NoMaster(ConnectionError):
    """No Sentinel names a usable master. The cause is the reason. Without a cause, no Sentinel knows the name."""


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """The meaning of an error code of Redis or Valkey."""

    description: str
    """Why the store cannot be used, for the log."""

    transient: bool = True
    """Whether the call ends as UNAVAILABLE. If not, the error is a bug in the sidecar or in another program."""

    outdated: bool = False
    """Whether the node may no longer be the right one, so that the topology must be read again."""

    refuses_calls: bool = False
    """Whether some calls can get this error while others are served, so that refused calls are logged."""

    redirects: bool = False
    """Whether the key is at another node. The node that replied may be healthy."""

    rejects_connections: bool = False
    """Whether the server refuses the whole connection, even commands that any user may run."""

    sentinel_advice: str = ""
    """Advice if a Sentinel replies with this code."""


CODES = {
    "ASK": ErrorCode("the slot is being moved to another node (ASK)", redirects=True),
    "BUSY": ErrorCode("it is busy running a script (BUSY)"),
    "CLUSTERDOWN": ErrorCode("the cluster is down, or has a slot that no node serves (CLUSTERDOWN)", outdated=True),
    "CROSSSLOT": ErrorCode("the keys of one command are in several slots (CROSSSLOT)", transient=False),
    "DENIED": ErrorCode(
        "it is in protected mode without a password, so it accepts only connections from its own host (DENIED)",
        rejects_connections=True,
    ),
    "EXECABORT": ErrorCode("it aborted a transaction (EXECABORT)", transient=False),
    "IDONTKNOW": ErrorCode("it does not know enough about the master yet (IDONTKNOW)"),
    "LOADING": ErrorCode("it is still loading its data (LOADING)"),
    "MASTERDOWN": ErrorCode("it is a replica that has lost its master (MASTERDOWN)", outdated=True),
    "MISCONF": ErrorCode("it cannot write to its disk (MISCONF)", outdated=True, refuses_calls=True),
    "MOVED": ErrorCode(
        "it is a node of a cluster: write redis+cluster:// or rediss+cluster:// (MOVED)",
        refuses_calls=True,
        redirects=True,
    ),
    "NOAUTH": ErrorCode(
        "it requires a user or a password, but none is configured (NOAUTH)",
        rejects_connections=True,
        sentinel_advice="; set --sentinel-password-file",
    ),
    "NOPERM": ErrorCode(
        "the user may not run a command inside the scripts (NOPERM); docs/operating.md lists those it needs",
        refuses_calls=True,
    ),
    "NOREPLICAS": ErrorCode("it has too few replicas (NOREPLICAS)", outdated=True, refuses_calls=True),
    "NOSCRIPT": ErrorCode("it does not know a script that was just sent to it (NOSCRIPT)", transient=False),
    "OOM": ErrorCode("it is out of memory (OOM)", refuses_calls=True),
    "READONLY": ErrorCode("it is a read-only replica (READONLY)", outdated=True, refuses_calls=True),
    "TRYAGAIN": ErrorCode(
        "the slot is being moved, and the keys of a session are at two nodes (TRYAGAIN)",
        refuses_calls=True,
        redirects=True,
    ),
    "UNBLOCKED": ErrorCode("it interrupted a command in a failover (UNBLOCKED)", outdated=True),
    "UNKILLABLE": ErrorCode("it is busy running a script that cannot be killed (UNKILLABLE)"),
    "WRONGPASS": ErrorCode(
        "wrong user or password (WRONGPASS)", sentinel_advice="; see --sentinel-user and --sentinel-password-file"
    ),
    "WRONGTYPE": ErrorCode(
        "a key has a value of another type: another program writes keys with this prefix (WRONGTYPE)", transient=False
    ),
}
"""Every code that a store may reply with. Any other code is a bug in the sidecar."""

_UNKNOWN_COMMAND = ErrorCode(
    "it lacks a command that the sidecar needs: use Redis 6.2 or newer, or Valkey 7.2 or newer, and neither rename nor "
    "disable commands",
    refuses_calls=True,
)
"""The meaning of an error without a code: the store is too old, or its operator has disabled a command."""

# Errors without a code, by a part of their text.
_BY_TEXT = {
    "AUTH": "a password is configured, but this user has none",
    "cluster support disabled": "it is not a cluster: write redis:// or rediss://",
    "DB index is out of range": "it has no database with that number",
    "max number of clients": "it has reached its maximum number of clients (maxclients)",
    "SENTINEL": "it is not a Sentinel",
}

_BY_TLS_FAULT = {
    "WRONG_VERSION_NUMBER": "it does not speak TLS: write redis://, if it is Redis",
    "UNEXPECTED_EOF_WHILE_READING": "it closes the connection in the TLS handshake: is it Redis, with TLS?",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it requires a client certificate (--redis-cert)",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "it refuses the TLS handshake; does it require a certificate (--redis-cert)?",
    "TLSV1_ALERT_UNKNOWN_CA": "it does not trust the authority of the certificate in --redis-cert",
    "SSLV3_ALERT_BAD_CERTIFICATE": "it does not trust the certificate in --redis-cert",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate in --redis-cert has expired",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak TLS 1.2 or newer",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.2 or newer",
}

_BY_ERRNO = {
    errno.ECONNREFUSED: "connection refused: nothing listens at this address",
    errno.ECONNRESET: "it resets the connection: is it Redis, and do both sides use TLS (rediss://), or neither?",
    errno.EPIPE: "it closes the connection",
    errno.ENOENT: "the socket does not exist",
    errno.EACCES: "no permission to connect to the socket",
    errno.EHOSTUNREACH: "no route to its host",
    errno.ENETUNREACH: "no route to its host",
}


def error_codes(refusal: ReplyError) -> set[str]:
    """Return the codes in an error reply.

    For an error inside a script, Redis 6 puts the code after a dash. For a forbidden command inside a script, Redis 7
    and Valkey reply ERR; the result is NOPERM, as outside scripts.
    """
    text = str(refusal)
    if re.match(r"(ERR )?(The user executing the script can't |ACL failure in script: )", text):
        return {"NOPERM"}
    return set(re.findall(r"(?:^|-)([A-Z]+)\b", text))


def known_codes(refusal: ReplyError) -> list[ErrorCode]:
    """Return the meanings of an error reply: the table's entries for its codes, or the one for an unknown command."""
    if re.match(r"ERR (.*: )?unknown (redis )?command\b(?!.*SENTINEL)", str(refusal), re.IGNORECASE):
        return [_UNKNOWN_COMMAND]
    return [CODES[code] for code in sorted(error_codes(refusal) & CODES.keys())]


def topology_is_outdated(refusal: ReplyError) -> bool:
    """Return whether the node that replied may no longer be the right one."""
    return any(code.outdated for code in known_codes(refusal))


def is_redirection(error: BaseException | None) -> bool:
    """Return whether an error reports that a key is at another node."""
    return isinstance(error, ReplyError) and any(code.redirects for code in known_codes(error))


def exception_for(refusal: ReplyError) -> Exception:
    """Return the exception to raise for an error reply: StoreUnavailable if it is transient, else the reply itself."""
    if not any(code.transient for code in known_codes(refusal)):
        return refusal
    unavailable = StoreUnavailable()
    unavailable.__cause__ = refusal
    return unavailable


def describe_error(error: BaseException | None, *, has_answered: bool = False) -> str:
    """Describe why an operation failed, for an operator.

    Args:
        error: The failure. The first error in its chain of causes that has a description decides.
        has_answered: Whether the store has answered before. If so, a timeout casts no doubt on address and TLS.
    """
    for cause in _chain(error):
        if has_answered and isinstance(cause, TimeoutError):
            return "no answer in time"
        if description := _description(cause):
            return description
    if error is None:
        return "unexpected reply"
    if isinstance(error, ConnectionLost):
        return "it closes the connection; do both sides use TLS (rediss://), or neither?"
    return f"unexpected reply ({type(error).__name__})"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _description(error: BaseException) -> str:
    if isinstance(error, Unusable):
        return str(error)
    if isinstance(error, ReplyError):
        return _refusal_description(error)
    if isinstance(error, NoMaster):
        return _no_master_description(error.__cause__)
    if isinstance(error, ssl.SSLCertVerificationError):
        # The message is a fixed text of OpenSSL, with the host name from the URL.
        return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
    if isinstance(error, ssl.SSLError):
        return _BY_TLS_FAULT.get(error.reason, f"TLS failed ({error.reason})")
    if isinstance(error, socket.gaierror):
        return "its host name cannot be resolved"
    if isinstance(error, TimeoutError):
        return "no answer in time; is the address right, and do both sides use TLS (rediss://), or neither?"
    if isinstance(error, OSError):
        # For a name with several addresses, the error of asyncio has the numbers only in its text.
        numbers = {error.errno} if error.errno else {int(n) for n in re.findall(r"\[Errno (\d+)\]", str(error))}
        return _BY_ERRNO.get(numbers.pop(), "") if len(numbers) == 1 else ""
    return ""


def _refusal_description(refusal: ReplyError) -> str:
    text = str(refusal)
    if "NOPERM" in error_codes(refusal):
        if command := re.search(r"run the '([a-z]+(?:\|[a-z-]+)?)' command", text):
            return f"the user may not run the command {command[1]} (NOPERM); docs/operating.md lists those it needs"
        if "key" in text:
            return "the user may not use keys with this prefix (NOPERM)"
    for code in known_codes(refusal):
        return code.description
    return next((description for part, description in _BY_TEXT.items() if part in text), "")


def _no_master_description(cause: BaseException | None) -> str:
    if cause is None:
        return "no Sentinel that answers knows a running master with that name"
    codes = known_codes(cause) if isinstance(cause, ReplyError) else []
    advice = next((code.sentinel_advice for code in codes if code.sentinel_advice), "")
    return f"no Sentinel names a master: {describe_error(cause)}{advice}"
