"""What goes wrong at the store, told apart: what may pass, and what is a bug of ours."""

from __future__ import annotations

import re

from hiredis import ReplyError


class StoreUnavailable(Exception):
    """The store cannot be reached, is too slow, or refuses for a reason that may pass. A write's outcome is unknown."""


# What a working Redis answers when it cannot serve just now; anything else it answers is a bug of ours.
_PASSING = frozenset(
    {
        *("ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOAUTH", "NOPERM", "NOREPLICAS"),
        *("OOM", "READONLY", "TRYAGAIN", "UNBLOCKED", "UNKILLABLE", "WRONGPASS"),
    }
)


def codes(refusal: ReplyError) -> set[str]:
    """The words by which Redis tells its refusals apart. Redis 6 puts that of an error in a script behind a dash.

    Redis 7 and Valkey call what a user may not do inside a script ERR; here it is NOPERM, as anywhere else.
    """
    text = str(refusal)
    if re.match(r"(ERR )?(The user executing the script can't |ACL failure in script: )", text):
        return {"NOPERM"}
    return set(re.findall(r"(?:^|-)([A-Z]+)\b", text))


def raised(refusal: ReplyError) -> Exception:
    """What to raise for a refusal: StoreUnavailable where it may pass, else the refusal itself, a bug of ours."""
    if _PASSING.isdisjoint(codes(refusal)):
        return refusal
    unavailable = StoreUnavailable()
    unavailable.__cause__ = refusal
    return unavailable
