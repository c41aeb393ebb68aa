"""Unread responses: other calls are served at once, and after a while the memory of unread responses is free."""

import asyncio
import resource
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, ListRunsRequest
from session_notes.v1.session_state_pb2 import GetSessionRequest
from session_notes_server.rpc import transfers
from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.authorization import Authorization
from session_notes_server.rpc.engines import Engine
from session_notes_server.rpc.errors import StatusError
from session_notes_server.rpc.services.reflection import ReflectionServicer
from session_notes_server.settings import EngineName
from session_notes_server.sidecar.lifecycle import background
from session_notes_server.telemetry.calls import Telemetry

from tests.engines import run_engine, service
from tests.faults.measures import MEBIBYTE, resident_bytes
from tests.faults.unread_responses import UnreadResponses
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id

SESSION_METHOD = "session_notes.v1.SessionState/GetSession"
NOTES_METHOD = "session_notes.v1.SessionNotes/GetNotes"
BATCH_METHOD = "session_notes.v1.SessionNotes/BatchGetNotes"
RUNS_METHOD = "session_notes.v1.SessionNotes/ListRuns"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Sidecar]:
    """A sidecar with default limits, on TCP and a unix socket."""
    with Sidecar(flags=["--listen", f"unix:{tmp_path}/s.sock"]) as sidecar:
        yield sidecar


def large_session(sidecar: Sidecar) -> str:
    """Create a session of 4 MB in fields and in notes of several runs, and return its id."""
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        for number in range(12):
            session.update_session(set={f"field-{number}": "x" * 200_000})
            session.write_notes(f"run-{number}", "x" * 200_000, observer=f"observer-{number % 4}")
        return session.id


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_unread_responses_do_not_affect_others(target: Sidecar, tmp_path: Path, place: str) -> None:
    """With three connections that request 500 MB and read nothing, others are served at once and memory is bounded."""
    session_id, before = large_session(target), resident_bytes(target)
    runs = ListRunsRequest(session_id=session_id, observer="observer-1", include_notes=True)
    large = GetNotesRequest(session_id=session_id, observer="observer-1")
    with ExitStack() as stack:
        for _ in range(3):
            peer = stack.enter_context(UnreadResponses(f"unix:{tmp_path}/s.sock" if place == "unix" else target.target))
            peer.call(SESSION_METHOD, GetSessionRequest(session_id=session_id), 20)
            peer.call(RUNS_METHOD, runs, 5)
            peer.call(BATCH_METHOD, BatchGetNotesRequest(requests=[large] * 20), 5)
            peer.call(NOTES_METHOD, large, 20)
        eventually(lambda: resident_bytes(target) > before + 10 * MEBIBYTE)
        with new_channel(target.target) as tcp, new_channel(f"unix:{tmp_path}/s.sock") as unix:
            for channel in (tcp, unix) * 10:
                session = SessionCalls(channel, new_session_id())
                session.write_notes("run-1", "said")
                assert session.get_notes().notes.summary == "said"
        assert resident_bytes(target) < before + 512 * MEBIBYTE


def test_a_connection_with_too_many_unread_responses_is_rejected(target: Sidecar) -> None:
    """Calls on a connection with too many unread bytes are OVERLOADED, and other connections get large responses."""
    session_id = large_session(target)
    with UnreadResponses(target.target) as peer, new_channel(target.target) as channel:
        peer.call(NOTES_METHOD, GetNotesRequest(session_id=session_id, observer="observer-1"), 300)
        eventually(lambda: "as OVERLOADED" in target.log)
        assert session_id not in target.log
        assert len(SessionCalls(channel, session_id).get_session().fields) == 12


def test_an_unread_watch_does_not_delay_others(target: Sidecar) -> None:
    """With an unread health Watch, other Watches get changes and the sidecar shuts down in time."""
    with UnreadResponses(target.target) as peer:
        peer.call("grpc.health.v1.Health/Watch", HealthCheckRequest(), 3)
        eventually(lambda: target.health() == HealthCheckResponse.SERVING)
        with new_channel(target.target) as channel:
            watch = HealthStub(channel).Watch(HealthCheckRequest(), timeout=20)
            assert next(watch).status == HealthCheckResponse.SERVING
            assert target.process is not None
            target.process.terminate()
            assert next(watch).status == HealthCheckResponse.NOT_SERVING
        assert target.process is not None
        assert target.process.wait(10) == 0


@asynccontextmanager
async def run_with_admission(
    engine: EngineName, handlers: Callable[[Admission], grpc.GenericRpcHandler]
) -> AsyncIterator[tuple[str, Admission]]:
    """Run an engine with handlers, and yield its address and the admission, whose transfers are swept."""
    admissions = list[Admission]()

    def create(server: Engine) -> list[grpc.GenericRpcHandler]:
        admissions.append(Admission(server, calls=100, held_bytes=64 * MEBIBYTE, message_bytes=4 * MEBIBYTE))
        return [handlers(admissions[0])]

    async with run_engine(engine, create) as (target, _), background(admissions[0].transfers.sweep()):
        yield target, admissions[0]


@asynccontextmanager
async def run_responding_engine(engine: EngineName, size: int) -> AsyncIterator[tuple[str, Admission, list[int]]]:
    """Run an engine whose responses have a size, and yield its address, its admission and the sizes it sent."""
    sizes = list[int]()

    def handlers(admission: Admission) -> grpc.GenericRpcHandler:
        async def handle(_: object, context: Any) -> bytes:
            call = admission.admit(context)
            await call.read_request()
            await call.wait_to_respond()
            call.hold_response(size, droppable=True)
            sizes.append(size)
            return b"x" * size  # Not zeros, for which the system reserves no memory until they are read.

        return service(Read=grpc.stream_unary_rpc_method_handler(handle))

    async with run_with_admission(engine, handlers) as (target, admission):
        yield target, admission, sizes


def own_bytes() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def wait_until(condition: Any, seconds: float = 10) -> None:
    """Wait in the event loop until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event marks the condition
            await asyncio.sleep(0.01)


async def test_calls_with_unread_responses_are_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, engine: EngineName
) -> None:
    """After a while, grpc.aio resets calls with unread responses, and the native engine closes their connection.

    Their admission is released, and the log has one line.
    """
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 0.3)
    async with run_responding_engine(engine, MEBIBYTE) as (target, admission, _):
        with UnreadResponses(target) as peer:
            peer.call("a.Service/Read", GetNotesRequest(), 6)
            await wait_until(lambda: admission._bytes.total >= 4 * MEBIBYTE)
            if engine is EngineName.NATIVE:
                await asyncio.wait_for(asyncio.to_thread(peer.wait_for_close), 20)
            else:
                await asyncio.wait_for(asyncio.to_thread(peer.wait_for_resets, 4), 20)
            await wait_until(lambda: not admission.tasks)
            assert (admission._bytes.total, admission._calls.total, admission._peers) == (0, 0, {})
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.unary_unary("/a.Service/Read")
            assert len(await call(b"", timeout=10)) == MEBIBYTE
    assert caplog.text.count("calls whose responses were unread") == 1


async def test_cancelled_calls_leave_nothing_in_admission(engine: EngineName) -> None:
    """Calls that their caller cancels leave no unread response: 20 s later, it would end their connection."""

    def handlers(admission: Admission) -> grpc.GenericRpcHandler:
        async def handle(_: object, context: Any) -> bytes:
            call = admission.admit(context)
            try:
                await call.read_request()
                await call.wait_to_respond()
                await asyncio.Event().wait()
            finally:
                call.sending()  # As the boundary does for the status of a cancelled call.
            return b""

        return service(Read=grpc.stream_unary_rpc_method_handler(handle))

    async with (
        run_with_admission(engine, handlers) as (target, admission),
        grpc.aio.insecure_channel(target) as channel,
    ):
        call: Any = channel.unary_unary("/a.Service/Read")
        for _ in range(5):  # More than a connection may build responses for at a time.
            calls = [call(b"") for _ in range(4)]
            await wait_until(lambda: all(call._responds for call in admission._admitted) and len(admission.tasks) == 4)
            for pending in calls:
                pending.cancel()
            await wait_until(lambda: not admission.tasks)
        assert not admission.transfers.unread
        assert (admission._bytes.total, admission._calls.total, admission._peers) == (0, 0, {})


async def test_requests_that_arrive_together_are_counted(monkeypatch: pytest.MonkeyPatch, engine: EngineName) -> None:
    """Requests that are admitted together, before their bytes arrive, are rejected above the connection's share."""
    monkeypatch.setattr(transfers, "SWEEP_SECONDS", 60.0)  # On a busy machine, these requests would count as slow.
    reasons = list[str]()
    done = asyncio.Event()

    def handlers(admission: Admission) -> grpc.GenericRpcHandler:
        async def handle(_: object, context: Any) -> bytes:
            call = admission.admit(context)
            try:
                await call.read_request()
            except StatusError as error:
                reasons.append(error.reason)
            await done.wait()
            return b""

        return service(Send=grpc.stream_unary_rpc_method_handler(handle))

    async with (
        run_with_admission(engine, handlers) as (target, admission),
        grpc.aio.insecure_channel(target) as channel,
    ):
        open_call: Any = channel.stream_unary("/a.Service/Send")
        calls = [open_call() for _ in range(12)]
        await wait_until(lambda: len(admission.transfers.arriving) == 12)
        writes = [asyncio.ensure_future(call.write(bytes(4 * MEBIBYTE))) for call in calls]
        await wait_until(lambda: not admission.transfers.arriving)
        assert reasons == ["OVERLOADED"] * 4
        assert admission._bytes.total == 32 * MEBIBYTE
        done.set()
        await asyncio.gather(*calls)
        await asyncio.gather(*writes, return_exceptions=True)


async def test_the_memory_of_unread_responses_is_freed(monkeypatch: pytest.MonkeyPatch, engine: EngineName) -> None:
    """Rounds of 16 MiB of unread responses leave memory flat."""
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 0.1)
    sizes = []
    async with run_responding_engine(engine, 4 * MEBIBYTE) as (target, admission, responses):
        with ExitStack() as stack:
            for number in range(1, 13):
                peer = stack.enter_context(UnreadResponses(target))
                peer.call("a.Service/Read", GetNotesRequest(), 4)
                await wait_until(lambda: len(responses) == 4 * number)  # noqa: B023 - awaited at once
                await wait_until(lambda: not admission.tasks)
                sizes.append(own_bytes())
    assert sizes[-1] < sizes[3] + 24 * MEBIBYTE, [size // MEBIBYTE for size in sizes]


async def test_an_unread_reflection_stream_is_ended(monkeypatch: pytest.MonkeyPatch, engine: EngineName) -> None:
    """An unread reflection stream ends after a while, and a stream that waits for its next request goes on."""
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 0.3)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    name = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name

    def handlers(admission: Admission) -> grpc.GenericRpcHandler:
        return ReflectionServicer(name, Authorization(), admission, ["a.Service"], Telemetry()).handler()

    async with (
        run_with_admission(engine, handlers) as (target, admission),
        grpc.aio.insecure_channel(target) as channel,
    ):
        reader: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=30)
        await reader.write(request)
        await reader.read()
        with UnreadResponses(target) as peer:
            peer.call(f"{name}/ServerReflectionInfo", request)
            await wait_until(lambda: len(admission.tasks) == 2)
            await wait_until(lambda: len(admission.tasks) == 1)
            await reader.write(request)
            assert (await reader.read()).list_services_response.service[0].name == "a.Service"
        reader.cancel()
