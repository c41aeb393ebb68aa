"""Delivery of pending turns: the calls of a recorder for a session, and the interpretation of their responses.

A visit to a session is a generator. It yields calls as functions without arguments and receives their results. A thread
drives it with a blocking client, a task with an asyncio client.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from session_notes import _encoding, _state_calls
from session_notes._backlog import Backlog
from session_notes._errors import (
    InvalidArgument,
    Overloaded,
    PermissionDenied,
    SessionDeleted,
    TooLarge,
    TurnCountMismatch,
    Unauthenticated,
    UsageError,
)
from session_notes._limits import COMPARE_TIMEOUT
from session_notes._logs import counted, session_digest, warn
from session_notes._results import Session
from session_notes._storable import prepare
from session_notes._types import Turn
from session_notes._visits import Entry, PendingSession

if TYPE_CHECKING:
    from session_notes._async_primary import AsyncPrimaryClient
    from session_notes._primary import PrimaryClient

    Client: TypeAlias = PrimaryClient | AsyncPrimaryClient

Visit: TypeAlias = Generator[Callable[[], Any], Any, None]

_REJECTED_TURN = r"turns\[(\d+)\]"

# Errors of calls that had no effect.
_NO_EFFECT = (Overloaded, InvalidArgument, TooLarge, Unauthenticated, PermissionDenied, UsageError)


def visit(backlog: Backlog, session: PendingSession, client: Client, timeout: timedelta) -> Visit:
    """Append some of a session's pending turns, and submit a run if one is due. End at the first failure."""
    failure: Exception | None = None
    try:
        if session.pending:
            yield from _append(backlog, session, client, timeout)
        _submit(backlog, session)
    except Exception as error:
        failure = error
    finally:
        backlog.leave(session, failure)


def drive(steps: Visit) -> None:
    """Run a visit with a blocking client."""
    try:
        call = next(steps)
        while True:
            try:
                result = call()
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(result)
    except StopIteration:
        pass
    finally:
        steps.close()


async def drive_async(steps: Visit) -> None:
    """Run a visit with an asyncio client."""
    try:
        call = next(steps)
        while True:
            try:
                result = await call()
            except Exception as error:
                call = steps.throw(error)
            else:
                call = steps.send(result)
    except StopIteration:
        pass
    finally:
        steps.close()


def _append(backlog: Backlog, session: PendingSession, client: Client, timeout: timedelta) -> Visit:
    uncertain_before, expected = session.uncertain, session.stored or 0
    batch = backlog.batch(session)
    turns = [entry.turn for entry in batch]
    try:
        # Not the client's `append_turns`, which retries: one attempt per visit, so that no session delays the others
        # and no attempt follows a deletion.
        call = _state_calls.append_turns(session.id, turns, expected, session.append_id)
        stored = (yield partial(client._transport.send, call, timeout, timeout)).turn_count
    except TurnCountMismatch as error:
        # Another writer appended, the session was deleted, or an earlier attempt succeeded. In the last case, most
        # sidecars recognize the append's id and return its turn count. Those of the contract's first version do not.
        if error.actual is None:
            raise
        actual, appended = error.actual, 0
        if uncertain_before:
            current = yield partial(client.get_session, session.id, include_turns=True, timeout=COMPARE_TIMEOUT)
            actual, appended = current.turn_count, len(batch) if _contains(current, expected, turns) else 0
        backlog.confirm(session, appended, actual)
    except SessionDeleted:
        # An earlier attempt succeeded, and then the session was deleted, with the turns recorded so far.
        dropped = backlog.drop(session)
        warn("session %s: %s dropped: the session was deleted", session_digest(session.id), counted(dropped))
    except _NO_EFFECT as error:
        session.uncertain = uncertain_before
        if isinstance(error, InvalidArgument | TooLarge) and _rejects_content(error):
            _reject(backlog, session, batch, error)
        else:
            raise
    else:
        backlog.confirm(session, len(batch), stored)


def _submit(backlog: Backlog, session: PendingSession) -> None:
    observer = backlog.due_observer(session)
    if observer is None:
        return
    try:
        observer.submit(session.id)
    except Exception as error:
        warn("session %s: no run was submitted: %s", session_digest(session.id), type(error).__name__)


def _reject(backlog: Backlog, session: PendingSession, batch: list[Entry], error: InvalidArgument | TooLarge) -> None:
    """Find the turn that the sidecar will never accept, and shorten it or leave it out."""
    fields = [error.metadata.get("field", ""), *(violation.field for violation in getattr(error, "violations", ()))]
    index = next((int(match[1]) for field in fields if (match := re.match(_REJECTED_TURN, field))), None)
    with backlog.changed:
        session.uncertain = 0
        if session.forgotten:
            return
        if index is None and len(batch) > 1:
            session.one_by_one = len(batch)
            return
        index = min(index or 0, len(batch) - 1)
        entry = batch[index]
        limit = error.limit if isinstance(error, TooLarge) else None
        shorter = prepare(entry.turn, limit) if limit else None
        if limit and shorter and shorter.size < entry.size and shorter.size <= limit:
            backlog.turn_limit = min(backlog.turn_limit, limit)
            backlog.replace(session, index, shorter)
            change = "text cut" if len(shorter.turn.text) < len(entry.turn.text) else "extra left out"
        else:
            backlog.remove(session, index)
            change = "a turn not recorded"
    warn("session %s: %s: %s %s", session_digest(session.id), change, type(error).__name__, error.reason)


def _rejects_content(error: InvalidArgument | TooLarge) -> bool:
    """Return whether the error is about the turns. An invalid token, an error without a reason, is not."""
    return bool(error.reason or getattr(error, "violations", ()))


def _contains(session: Session, before: int, turns: list[Turn]) -> bool:
    """Return whether these turns follow the first `before` ones. The transcript may no longer contain the oldest."""
    if session.turn_count < before + len(turns):
        return False
    first = session.turn_count - len(session.turns)
    stored = session.turns[max(0, before - first) : max(0, before + len(turns) - first)]
    sent = turns[len(turns) - len(stored) :]
    return _encoding.turn_messages(stored) == _encoding.turn_messages(sent)
