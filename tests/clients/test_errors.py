"""Errors: every failure is a SessionNotesError that a caller can act on without importing grpc."""

import copy
import pickle
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import grpc
import pytest
import session_notes
from google.rpc import code_pb2, error_details_pb2, status_pb2
from session_notes import (
    Conflict,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    Issue,
    Notes,
    ObserverClient,
    PermissionDenied,
    PrimaryClient,
    Readiness,
    RunAlreadyFailed,
    RunAlreadyWritten,
    RunInFlight,
    RunNotFound,
    ServerError,
    SessionDeleted,
    SessionNotesError,
    TooLarge,
    Turn,
    TurnCountMismatch,
    Unauthenticated,
    Unavailable,
    UsageError,
    VersionMismatch,
)

from tests.peers import RejectingServer
from tests.support import eventually

SHORT = timedelta(milliseconds=300)


def test_an_invalid_argument_names_its_fields(primary: PrimaryClient) -> None:
    """InvalidArgument names the invalid fields and their problems, and is a ValueError."""
    with pytest.raises(InvalidArgument) as caught:
        primary.get_notes("two words", current_turn=-1)
    error = caught.value
    assert {violation.field for violation in error.violations} == {"session_id", "current_turn"}
    assert all(isinstance(violation, FieldViolation) and violation.description for violation in error.violations)
    assert "session_id" in str(error)
    assert error.reason == "INVALID_FIELD"
    assert isinstance(error, ValueError)


UNBUILDABLE: dict[str, Callable[[PrimaryClient, ObserverClient], Any]] = {
    "a number of seconds": lambda p, _: p.get_notes("s", max_age=60),  # type: ignore[arg-type]
    "a timeout of seconds": lambda p, _: p.get_notes("s", timeout=1.5),  # type: ignore[arg-type]
    "a turn that is not a number": lambda p, _: p.get_notes("s", current_turn="3"),  # type: ignore[arg-type]
    "a turn too large": lambda p, _: p.get_notes("s", current_turn=2**70),
    "a single id for a list": lambda p, _: p.batch_get_notes("session"),
    "a single name for a list": lambda p, _: p.update_session("s", remove="name"),
    "a value that is not JSON": lambda p, _: p.update_session("s", {"a": object()}),
    "a key that is not text": lambda p, _: p.update_session("s", {"a": {1: 2}}),
    "bytes": lambda p, _: p.update_session("s", {"a": b"x"}),
    "endless nesting": lambda p, _: p.update_session("s", {"a": endless()}),
    "half a character": lambda p, _: p.update_session("s", {"a": "\ud800"}),
    "a turn that is text": lambda p, _: p.append_turns("s", ["hello"]),  # type: ignore[list-item]
    "a time without zone": lambda p, _: p.append_turns("s", [Turn("user", "x", datetime(2026, 1, 1))]),
    "notes that are text": lambda _, o: o.write_notes("s", "notes"),  # type: ignore[arg-type]
    "issues that are text": lambda _, o: o.write_notes("s", Notes(issues=["late"])),  # type: ignore[list-item]
    "a single suggestion for a list": lambda _, o: o.write_notes("s", Notes(follow_up_suggestions="Who?")),
    "an unknown severity": lambda _, o: o.write_notes("s", Notes(issues=[Issue("x", "bad")])),  # type: ignore[arg-type]
}


def endless() -> list[Any]:
    """A list that contains itself."""
    made: list[Any] = []
    made.append(made)
    return made


@pytest.mark.parametrize("case", UNBUILDABLE)
def test_an_argument_that_cannot_be_encoded_is_invalid(
    case: str, primary: PrimaryClient, observer: ObserverClient
) -> None:
    """A request that cannot be encoded is rejected by the client, in the same form as by the sidecar."""
    with pytest.raises(InvalidArgument) as caught:
        UNBUILDABLE[case](primary, observer)
    assert str(caught.value)


def test_strings_in_place_of_turns_are_rejected(primary: PrimaryClient) -> None:
    """Strings in place of turns, a likely mistake of a newcomer, are rejected with the expected type."""
    with pytest.raises(InvalidArgument, match=r"^turns must be session_notes\.Turn, not str$") as caught:
        primary.append_turns("s", ["hello"])  # type: ignore[list-item]
    assert isinstance(caught.value.__cause__, TypeError)


def test_too_large_has_the_limit(observer: ObserverClient, primary: PrimaryClient, session_id: str) -> None:
    """TooLarge has the limit and the actual size."""
    with pytest.raises(TooLarge) as caught:
        observer.write_notes(session_id, Notes(summary="x" * 300_000))
    assert caught.value.limit == 256 * 1024
    assert (caught.value.actual or 0) > 300_000
    with pytest.raises(TooLarge) as caught:
        primary.batch_get_notes([session_id] * 1001)
    assert (caught.value.limit, caught.value.actual) == (1000, 1001)


def test_conflicts_have_the_actual_value(primary: PrimaryClient, session_id: str) -> None:
    """VersionMismatch and TurnCountMismatch have the actual value, and are Conflicts."""
    primary.update_session(session_id, {"a": 1})
    with pytest.raises(VersionMismatch) as version:
        primary.update_session(session_id, {"a": 2}, expected_version=0)
    assert version.value.actual == 1
    primary.append_turns(session_id, [Turn("user", "x")])
    with pytest.raises(TurnCountMismatch) as count:
        primary.append_turns(session_id, [Turn("user", "x")], expected_turn_count=0)
    assert count.value.actual == 1
    assert isinstance(version.value, Conflict)
    assert isinstance(count.value, Conflict)


def test_a_run_ends_once(observer: ObserverClient, session_id: str) -> None:
    """RunAlreadyWritten, RunAlreadyFailed, RunNotFound: each way in which a run has ended has its error."""
    observer.write_notes(session_id, Notes(summary="x"), run_id="written")
    with pytest.raises(RunAlreadyWritten):
        observer.write_notes(session_id, Notes(summary="y"), run_id="written")
    with pytest.raises(RunAlreadyWritten):
        observer.fail_run(session_id, "written", "why")
    failed = observer.begin_run(session_id).run.run_id
    first = observer.fail_run(session_id, failed, "first")
    assert observer.fail_run(session_id, failed, "second") == first
    assert first.failure == "first"
    with pytest.raises(RunAlreadyFailed):
        observer.write_notes(session_id, Notes(), run_id=failed)
    with pytest.raises(RunNotFound):
        observer.fail_run(session_id, "unreachable", "why")


def test_run_in_flight_has_the_other_run(observer: ObserverClient, session_id: str) -> None:
    """RunInFlight has the run that is in flight."""
    begun = observer.begin_run(session_id)
    with pytest.raises(RunInFlight) as caught:
        observer.begin_run(session_id, only_if_idle=True)
    assert caught.value.run.run_id == begun.run.run_id


def test_a_run_of_a_deleted_session_raises_session_deleted(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """A run of a session that was deleted during the run raises SessionDeleted."""
    run_id = observer.begin_run(session_id).run.run_id
    primary.delete_session(session_id)
    with pytest.raises(SessionDeleted):
        observer.write_notes(session_id, Notes(), run_id=run_id)
    with pytest.raises(SessionDeleted):
        observer.begin_run(session_id, run_id=run_id)


def test_an_unreachable_sidecar_is_unavailable(unreachable: str) -> None:
    """An unreachable sidecar is reported immediately, as Unavailable and not as DeadlineExceeded."""
    with PrimaryClient(unreachable) as primary, pytest.raises(Unavailable) as caught:
        primary.get_notes("s")
    assert not isinstance(caught.value, DeadlineExceeded)
    assert unreachable in str(caught.value), "the message names the target"


def test_a_silent_sidecar_exceeds_the_deadline(silent: str) -> None:
    """Without a response, a primary waits for 250 ms by default."""
    with PrimaryClient(silent) as primary:
        for timeout, shortest, longest in ((None, 0.25, 2), (SHORT / 3, 0.1, 2), (timedelta(), 0, 1)):
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded) as caught:
                primary.get_notes("s", timeout=timeout)
            assert shortest <= time.monotonic() - started < longest
    assert isinstance(caught.value, Unavailable)
    with PrimaryClient(silent, timeout=SHORT / 3, state_timeout=SHORT / 3) as primary:
        for call in (lambda: primary.get_notes("s"), lambda: primary.delete_session("s")):
            started = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                call()
            assert time.monotonic() - started < 2


def test_an_outage_can_be_a_reading(unreachable: str, silent: str) -> None:
    """With `unavailable_ok`, an outage is a reading that is not ready and has the reason."""
    for target in (unreachable, silent):
        with PrimaryClient(target, timeout=SHORT / 3, state_timeout=SHORT / 3) as primary:
            reading = primary.get_notes("s", observer="tone", unavailable_ok=True)
            assert (reading.ready, reading.readiness, reading.fresh) == (False, Readiness.UNAVAILABLE, False)
            assert (reading.session_id, reading.observer) == ("s", "tone")
            assert reading.unavailable_reason
            assert reading.as_tool_result() == {"ready": False, "reason": "unavailable"}
            batch = primary.batch_get_notes(["s", "t"], unavailable_ok=True)
            assert [(r.session_id, r.readiness) for r in batch] == [("s", "unavailable"), ("t", "unavailable")]


def test_unavailable_ok_hides_nothing_else(primary: PrimaryClient) -> None:
    """`unavailable_ok` does not hide a mistake of the caller."""
    with pytest.raises(InvalidArgument):
        primary.get_notes("two words", unavailable_ok=True)
    with pytest.raises(InvalidArgument):
        primary.batch_get_notes(["two words"], unavailable_ok=True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, Unauthenticated),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDenied),
        (grpc.StatusCode.ABORTED, Conflict),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNKNOWN, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
        (grpc.StatusCode.NOT_FOUND, ServerError),
        (grpc.StatusCode.FAILED_PRECONDITION, ServerError),
    ],
)
def test_every_status_has_an_error(
    rejecting: RejectingServer, code: grpc.StatusCode, kind: type[SessionNotesError]
) -> None:
    """A status without a known reason is translated by its code. An unexpected one is a ServerError."""
    rejecting.code, rejecting.message = code, "internal error 3f9c2a71"
    with PrimaryClient(rejecting.target) as primary, pytest.raises(SessionNotesError) as caught:
        primary.get_session("s")
    assert type(caught.value) is kind
    assert "3f9c2a71" in str(caught.value)
    assert not isinstance(caught.value, grpc.RpcError)


def test_error_details_are_decoded(rejecting: RejectingServer) -> None:
    """An error has the reason, the metadata and the time to wait. Malformed details are ignored."""
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=1.5))
    for detail in (error_details_pb2.ErrorInfo(reason="STORE_UNAVAILABLE", metadata={"a": "b"}), retry):
        status.details.add().Pack(detail)
    rejecting.code, rejecting.details = grpc.StatusCode.UNAVAILABLE, status.SerializeToString()
    with PrimaryClient(rejecting.target) as primary:
        with pytest.raises(Unavailable) as caught:
            primary.get_notes("s")
        error = caught.value
        assert (error.reason, error.metadata, error.retry_after) == (
            "STORE_UNAVAILABLE",
            {"a": "b"},
            timedelta(seconds=1.5),
        )
        rejecting.details = b"\xff\xff\xff"
        with pytest.raises(Unavailable) as caught:
            primary.get_notes("s")
        assert (caught.value.reason, caught.value.retry_after) == ("", None)


def test_a_request_that_arrives_too_late_is_a_deadline_exceeded(rejecting: RejectingServer) -> None:
    """REQUEST_TIMEOUT, for a request that does not reach the sidecar in time, is a DeadlineExceeded."""
    status = status_pb2.Status(code=code_pb2.DEADLINE_EXCEEDED)
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="REQUEST_TIMEOUT"))
    rejecting.code, rejecting.details = grpc.StatusCode.DEADLINE_EXCEEDED, status.SerializeToString()
    rejecting.message = "the request did not arrive in time; retry"
    with PrimaryClient(rejecting.target) as primary, pytest.raises(DeadlineExceeded) as caught:
        primary.append_turns("s", [Turn("user", "x")])
    assert (caught.value.reason, str(caught.value)) == ("REQUEST_TIMEOUT", rejecting.message)


def test_a_closed_client_raises_usage_error(primary: PrimaryClient, observer: ObserverClient) -> None:
    """A call after close() raises UsageError, which is a RuntimeError. Closing twice is harmless."""
    for client, call in ((primary, lambda: primary.get_notes("s")), (observer, lambda: observer.begin_run("s"))):
        client.close()
        client.close()
        with pytest.raises(UsageError, match="closed") as caught:
            call()
        assert isinstance(caught.value, RuntimeError)


def test_closing_at_the_moment_of_a_call(primary: PrimaryClient) -> None:
    """A call whose channel was closed by another thread was in flight, and ends as Unavailable."""
    primary._transport._connected().close()
    with pytest.raises(Unavailable, match="closed"):
        primary.get_notes("s")


def test_closing_ends_calls_in_flight(silent: str) -> None:
    """A call in flight while another thread closes the client ends as Unavailable."""
    observer = ObserverClient(silent, timeout=timedelta(minutes=1))
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(observer.begin_run, "s")
        eventually(lambda: observer._transport._methods)
        observer.close()
        with pytest.raises(Unavailable):
            call.result(10)


def test_closing_ends_a_pause_between_attempts(retry_later: RejectingServer) -> None:
    """A call that waits for its next attempt ends immediately. A later call raises UsageError."""
    observer = ObserverClient(retry_later.target, timeout=timedelta(minutes=5))
    with ThreadPoolExecutor(1) as thread:
        call = thread.submit(observer.begin_run, "s")
        eventually(lambda: retry_later.requests)
        observer.close()
        with pytest.raises(Unavailable):
            call.result(10)
    with pytest.raises(UsageError, match="closed"):
        observer.begin_run("s")
    assert len(retry_later.requests) == 1


def test_errors_can_be_pickled() -> None:
    """An error survives pickling and copying with all its attributes."""
    error = VersionMismatch("is at 6", reason="VERSION_MISMATCH", metadata={"actual": "6"})
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (str(other), other.reason, other.actual) == ("is at 6", "VERSION_MISMATCH", 6)


def test_all_is_complete() -> None:
    """`__all__` is complete, and every exception is a SessionNotesError."""
    imported = {name for name, value in vars(session_notes).items() if not name.startswith("_") and not _module(value)}
    public = imported | set(session_notes._LAZY)
    assert set(session_notes.__all__) == public
    errors = [value for name in public if isinstance(value := getattr(session_notes, name), type)]
    errors = [kind for kind in errors if issubclass(kind, BaseException)]
    assert all(issubclass(error, SessionNotesError) for error in errors)
    assert len(errors) == 20


def _module(value: object) -> bool:
    return type(value).__name__ == "module"
