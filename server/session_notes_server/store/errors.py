"""Store errors, classified: what each error code means, whether it may pass, and whether the node is the right one."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hiredis import ReplyError


class StoreUnavailable(Exception):
    """The store cannot be reached, is too slow, or refuses for a reason that may pass. A write's outcome is unknown."""


class Unusable(ConnectionError):
    """A store, a node or a Sentinel that cannot be used. The text is fixed, holds no secret and goes into the log."""


class Silent(Unusable, TimeoutError):
    """The same, because it does not answer in time."""


class NotDone(Unusable):
    """A call that a store did not do, or not surely, while it may answer others."""


@dataclass(frozen=True, slots=True)
class Code:
    """What an error code of Redis or Valkey means to us."""

    words: str
    """Why the store cannot be used, for the log."""

    passing: bool = True
    """Whether it may pass, so that the caller is told UNAVAILABLE. If not, it is a bug, ours or another program's."""

    outdated: bool = False
    """Whether the node may not, or no longer, be the one to use: find out anew which one is."""

    refuses_calls: bool = False
    """Whether some calls can meet it while others are answered, so that a refused call is a line in the log."""


CODES = {
    "ASK": Code("the slot is being moved to another node (ASK)"),
    "BUSY": Code("it is busy with somebody's script (BUSY)"),
    "CLUSTERDOWN": Code("the cluster is down, or has a slot that no node serves (CLUSTERDOWN)", outdated=True),
    "CROSSSLOT": Code("keys of one command are in several slots (CROSSSLOT)", passing=False),
    "DENIED": Code("it is in protected mode and has no password, so it lets in only its own machine (DENIED)"),
    "EXECABORT": Code("it aborted a transaction (EXECABORT)", passing=False),
    "IDONTKNOW": Code("it does not know enough about the master yet (IDONTKNOW)"),
    "LOADING": Code("it is still loading its data (LOADING)"),
    "MASTERDOWN": Code("it is a replica that has lost its master (MASTERDOWN)", outdated=True),
    "MISCONF": Code("it cannot write to its disk (MISCONF)", outdated=True, refuses_calls=True),
    "MOVED": Code("it is a node of a cluster: write redis+cluster:// or rediss+cluster:// (MOVED)", refuses_calls=True),
    "NOAUTH": Code("it asks for a user or a password, and we have none (NOAUTH)"),
    "NOPERM": Code(
        "our user may not run a command inside our scripts (NOPERM); docs/operating.md has all that it needs",
        refuses_calls=True,
    ),
    "NOREPLICAS": Code("it has too few replicas (NOREPLICAS)", outdated=True, refuses_calls=True),
    "NOSCRIPT": Code("it does not know a script that it was just sent (NOSCRIPT)", passing=False),
    "OOM": Code("it is out of memory (OOM)", refuses_calls=True),
    "READONLY": Code("it is a read-only replica (READONLY)", outdated=True, refuses_calls=True),
    "TRYAGAIN": Code("the slot is being moved, and parts of a session are at two nodes (TRYAGAIN)", refuses_calls=True),
    "UNBLOCKED": Code("it ended a command before its time, in a failover (UNBLOCKED)", outdated=True),
    "UNKILLABLE": Code("it is busy with a script that cannot be ended (UNKILLABLE)"),
    "WRONGPASS": Code("wrong user or password (WRONGPASS)"),
    "WRONGTYPE": Code(
        "a key has a value of another type: another program writes keys with our prefix (WRONGTYPE)", passing=False
    ),
}
"""Every code that a store may answer us with. Any other is a bug of ours."""

_ELSEWHERE = frozenset({"ASK", "MOVED", "TRYAGAIN"})


def codes(refusal: ReplyError) -> set[str]:
    """The words by which Redis tells its refusals apart. Redis 6 puts that of an error in a script behind a dash.

    Redis 7 and Valkey call what a user may not do inside a script ERR; here it is NOPERM, as anywhere else.
    """
    text = str(refusal)
    if re.match(r"(ERR )?(The user executing the script can't |ACL failure in script: )", text):
        return {"NOPERM"}
    return set(re.findall(r"(?:^|-)([A-Z]+)\b", text))


def meanings(refusal: ReplyError) -> list[Code]:
    """What the codes of a refusal mean, those that are known."""
    return [CODES[code] for code in sorted(codes(refusal) & CODES.keys())]


def is_outdated(refusal: ReplyError) -> bool:
    """Whether the node that answered this is not, or no longer, the one to use."""
    return any(code.outdated for code in meanings(refusal))


def is_elsewhere(error: BaseException | None) -> bool:
    """Whether a key is at another node, which says nothing of the node that answered."""
    return isinstance(error, ReplyError) and not _ELSEWHERE.isdisjoint(codes(error))


def raised(refusal: ReplyError) -> Exception:
    """What to raise for a refusal: StoreUnavailable where it may pass, else the refusal itself, a bug of ours."""
    if not any(code.passing for code in meanings(refusal)):
        return refusal
    unavailable = StoreUnavailable()
    unavailable.__cause__ = refusal
    return unavailable
