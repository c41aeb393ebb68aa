"""Deadlines: how long calls may take, and what their errors report."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest
from session_notes import (
    AsyncObserverClient,
    AsyncPrimaryClient,
    DeadlineExceeded,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    Turn,
    Unavailable,
)

from tests.peers import RejectingServer

FAR = [timedelta.max, timedelta(seconds=10**9), timedelta(days=365_000), timedelta(days=60)]
PASSED = [timedelta(), timedelta(seconds=-1), timedelta.min]
SHORT = timedelta(milliseconds=100)


@pytest.mark.parametrize("far", FAR)
async def test_a_far_deadline_has_not_passed(far: timedelta, primary: PrimaryClient, observer: ObserverClient) -> None:
    """A call with a deadline far in the future gets its response."""
    session_id = "test-a-far-deadline"
    with PrimaryClient(primary._transport.target, timeout=far, state_timeout=far) as patient:
        assert patient.append_turns(session_id, [Turn("user", "x")]) > 0
        assert not patient.get_notes(session_id).ready
    begun = observer.begin_run(session_id, timeout=far)
    observer.fail_run(session_id, begun.run.run_id, timeout=far)
    async with AsyncPrimaryClient(primary._transport.target, timeout=far) as client:
        assert not (await client.get_notes(session_id)).ready
    async with AsyncObserverClient(primary._transport.target, timeout=far) as observing:
        begun = await observing.begin_run(session_id)
        await observing.fail_run(session_id, begun.run.run_id)


@pytest.mark.parametrize("passed", PASSED)
async def test_a_deadline_that_has_passed(passed: timedelta, primary: PrimaryClient) -> None:
    """A call whose deadline has passed raises DeadlineExceeded and nothing else."""
    with pytest.raises(DeadlineExceeded, match="no answer within 0 s"):
        primary.get_session("s", timeout=passed)
    async with AsyncPrimaryClient(primary._transport.target) as client:
        with pytest.raises(DeadlineExceeded, match="no answer within 0 s"):
            await client.get_session("s", timeout=passed)


SPANS: dict[str, Callable[[PrimaryClient, ObserverClient, str, timedelta], Any]] = {
    "lease": lambda _, o, s, span: o.begin_run(s, lease=span),
    "ttl": lambda p, _, s, span: p.update_session(s, {"a": 1}, ttl=span),
    "ttl of notes": lambda _, o, s, span: o.write_notes(s, Notes(), ttl=span),
}


@pytest.mark.parametrize("span", [timedelta.max, timedelta.min, timedelta(days=4_000_000)])
def test_a_span_that_is_too_long_to_send(
    span: timedelta, primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """The sidecar rejects a span that is too long, like any other. A bound on age may be arbitrarily long."""
    for name, call in SPANS.items():
        with pytest.raises(InvalidArgument) as caught:
            call(primary, observer, session_id, span)
        assert [violation.field for violation in caught.value.violations] == [name.partition(" ")[0]]
    observer.write_notes(session_id, Notes(summary="x"))
    patient = timedelta(seconds=5)
    if span < timedelta():
        with pytest.raises(InvalidArgument, match="max_age"):
            primary.get_notes(session_id, max_age=span, timeout=patient)
    else:
        assert primary.get_notes(session_id, max_age=span, timeout=patient).fresh


async def test_a_timeout_names_the_call_and_the_target(silent: str) -> None:
    """The error names the call, the target and the timeout, in every client and in an unavailable reading."""
    expected = f"GetNotes on {silent}: no answer within 0.1 s"
    with PrimaryClient(silent, timeout=SHORT) as primary:
        with pytest.raises(DeadlineExceeded) as caught:
            primary.get_notes("s")
        assert str(caught.value) == expected
        assert primary.get_notes("s", unavailable_ok=True).unavailable_reason == expected
    async with AsyncPrimaryClient(silent, timeout=SHORT) as client:
        with pytest.raises(DeadlineExceeded) as caught:
            await client.get_notes("s")
        assert str(caught.value) == expected
        assert (await client.get_notes("s", unavailable_ok=True)).unavailable_reason == expected
    with ObserverClient(silent) as observer, pytest.raises(DeadlineExceeded) as caught:
        observer.begin_run("s", timeout=SHORT)
    assert str(caught.value) == f"BeginRun on {silent}: no answer within 0.1 s"


async def test_an_outage_names_the_call_and_the_target(unreachable: str) -> None:
    """The error of an outage names the call and the target as well."""
    with PrimaryClient(unreachable) as primary, pytest.raises(Unavailable, match=f"^DeleteSession on {unreachable}: ."):
        primary.delete_session("s")
    async with AsyncObserverClient(unreachable, timeout=SHORT) as observer:
        with pytest.raises(Unavailable, match=f"^WriteNotes on {unreachable}: ."):
            await observer.write_notes("s", Notes())


def test_a_timeout_contains_the_error_of_the_previous_attempt(rejecting: RejectingServer) -> None:
    """The error of a timeout after a rejected attempt contains both."""
    rejecting.code, rejecting.message, rejecting.answers = grpc.StatusCode.UNAVAILABLE, "the store is away", 1
    started = time.monotonic()
    with (
        ObserverClient(rejecting.target, timeout=timedelta(seconds=0.5)) as observer,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        observer.begin_run("s")
    assert time.monotonic() - started < 5
    before = "before that: the store is away"
    assert str(caught.value) == f"BeginRun on {rejecting.target}: no answer within 0.5 s; {before}"
