"""Answers that nobody reads: the rest of the world goes on at once, and after a while what they hold is free."""

import asyncio
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
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
from session_notes_server.rpc.errors import StatusError
from session_notes_server.rpc.services.reflection import ReflectionServicer
from session_notes_server.telemetry.calls import Telemetry

from tests.faults.test_overload import memory
from tests.faults.unread import UnreadAnswers
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id

MEBIBYTE = 1 << 20
SESSION_METHOD = "session_notes.v1.SessionState/GetSession"
NOTES_METHOD = "session_notes.v1.SessionNotes/GetNotes"
BATCH_METHOD = "session_notes.v1.SessionNotes/BatchGetNotes"
RUNS_METHOD = "session_notes.v1.SessionNotes/ListRuns"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Sidecar]:
    """A sidecar with its default limits, on a unix socket, too."""
    with Sidecar(flags=["--listen", f"unix:{tmp_path}/s.sock"]) as sidecar:
        yield sidecar


def large_session(sidecar: Sidecar) -> str:
    """A session of 4 MB, in fields and in notes of several runs."""
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        for number in range(12):
            session.update_session(set={f"field-{number}": "x" * 200_000})
            session.write_notes(f"run-{number}", "x" * 200_000, observer=f"observer-{number % 4}")
        return session.id


@pytest.mark.parametrize("place", ["tcp", "unix"])
def test_answers_unread_are_their_callers_trouble(target: Sidecar, tmp_path: Path, place: str) -> None:
    """Three connections that ask for 500 MB and read nothing: others are served at once, and memory is bounded."""
    session_id, before = large_session(target), memory(target)
    runs = ListRunsRequest(session_id=session_id, observer="observer-1", include_notes=True)
    large = GetNotesRequest(session_id=session_id, observer="observer-1")
    with ExitStack() as stack:
        for _ in range(3):
            peer = stack.enter_context(UnreadAnswers(f"unix:{tmp_path}/s.sock" if place == "unix" else target.target))
            peer.call(SESSION_METHOD, GetSessionRequest(session_id=session_id), 20)
            peer.call(RUNS_METHOD, runs, 5)
            peer.call(BATCH_METHOD, BatchGetNotesRequest(requests=[large] * 20), 5)
            peer.call(NOTES_METHOD, large, 20)
        eventually(lambda: memory(target) > before + 10 * MEBIBYTE)
        with new_channel(target.target) as tcp, new_channel(f"unix:{tmp_path}/s.sock") as unix:
            for channel in (tcp, unix) * 10:
                session = SessionCalls(channel, new_session_id())
                session.write_notes("run-1", "said")
                assert session.get_notes().notes.summary == "said"
        assert memory(target) < before + 512 * MEBIBYTE


def test_a_connection_that_holds_too_much_is_refused(target: Sidecar) -> None:
    """The log says so, and names nobody; who asks on a connection of their own gets large answers, too."""
    session_id = large_session(target)
    with UnreadAnswers(target.target) as peer, new_channel(target.target) as channel:
        peer.call(NOTES_METHOD, GetNotesRequest(session_id=session_id, observer="observer-1"), 300)
        eventually(lambda: "as OVERLOADED" in target.log)
        assert session_id not in target.log
        assert len(SessionCalls(channel, session_id).get_session().fields) == 12


def test_a_watch_that_is_not_read_holds_up_no_other(target: Sidecar) -> None:
    """Health changes for all others, and the sidecar stops in time."""
    with UnreadAnswers(target.target) as peer:
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
async def serving(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[str]:
    """A server of some handlers → where."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def guarding() -> AsyncIterator[Admission]:
    """Admission control whose transfers are swept."""
    admission = Admission(calls=100, held_bytes=64 * MEBIBYTE, message_bytes=4 * MEBIBYTE)
    sweep = asyncio.create_task(admission.transfers.sweep())
    try:
        yield admission
    finally:
        sweep.cancel()
        with suppress(asyncio.CancelledError):
            await sweep


@asynccontextmanager
async def answering(size: int) -> AsyncIterator[tuple[str, Admission, list[int]]]:
    """A server whose responses have this size: its address, its admission control, and the sizes of its responses."""
    made = list[int]()
    async with guarding() as admission:

        async def handle(_: object, context: Any) -> bytes:
            call = admission.admit(context)
            await call.read_request()
            await call.wait_to_respond()
            call.hold_response(size, droppable=True)
            made.append(size)
            return bytes(size)

        methods: dict[str, Any] = {"Read": grpc.stream_unary_rpc_method_handler(handle)}
        async with serving(grpc.method_handlers_generic_handler("a.Service", methods)) as target:
            yield target, admission, made


def resident() -> int:
    """How many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def until(condition: Any, seconds: float = 10) -> None:
    """Wait until a condition holds, in the loop that is to make it so."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event marks the condition
            await asyncio.sleep(0.01)


async def test_calls_whose_answers_nobody_reads_are_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Their callers see it, their bytes and turns are free, the log says so in one line."""
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 0.3)
    async with answering(MEBIBYTE) as (target, admission, _):
        with UnreadAnswers(target) as peer:
            peer.call("a.Service/Read", GetNotesRequest(), 6)
            await until(lambda: admission._bytes.total >= 4 * MEBIBYTE)
            await asyncio.wait_for(asyncio.to_thread(peer.until_reset, 4), 20)
            await until(lambda: not admission.tasks)
            assert (admission._bytes.total, admission._calls.total, admission._peers) == (0, 0, {})
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.unary_unary("/a.Service/Read")
            assert len(await call(b"", timeout=10)) == MEBIBYTE
    assert "calls whose responses were unread" in caplog.text


async def test_requests_that_arrive_together_are_counted() -> None:
    """All are let in before a byte of any has come: what is beyond the connection's part is refused all the same."""
    ended = list[str]()
    done = asyncio.Event()
    async with guarding() as admission:

        async def handle(_: object, context: Any) -> bytes:
            call = admission.admit(context)
            try:
                await call.read_request()
            except StatusError as error:
                ended.append(error.reason)
            await done.wait()
            return b""

        methods: dict[str, Any] = {"Send": grpc.stream_unary_rpc_method_handler(handle)}
        async with (
            serving(grpc.method_handlers_generic_handler("a.Service", methods)) as target,
            grpc.aio.insecure_channel(target) as channel,
        ):
            open_call: Any = channel.stream_unary("/a.Service/Send")
            calls = [open_call() for _ in range(12)]
            await until(lambda: len(admission.transfers.arriving) == 12)
            await asyncio.gather(*[call.write(bytes(4 * MEBIBYTE)) for call in calls])
            await until(lambda: not admission.transfers.arriving)
            assert ended == ["OVERLOADED"] * 4
            assert admission._bytes.total == 32 * MEBIBYTE
            done.set()
            await asyncio.gather(*calls)


async def test_what_unread_answers_held_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round after round of 16 MiB that nobody reads leaves memory flat."""
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 0.1)
    sizes = []
    async with answering(4 * MEBIBYTE) as (target, admission, made):
        with ExitStack() as stack:
            for number in range(1, 9):
                peer = stack.enter_context(UnreadAnswers(target))
                peer.call("a.Service/Read", GetNotesRequest(), 4)
                await until(lambda: len(made) == 4 * number)  # noqa: B023 - awaited at once
                await until(lambda: not admission.tasks)
                sizes.append(resident())
    assert sizes[-1] < sizes[2] + 24 * MEBIBYTE, [size // MEBIBYTE for size in sizes]


async def test_a_stream_of_reflection_that_nobody_reads_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is read and waits for the next question goes on."""
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 0.3)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    async with guarding() as admission:
        servicer = ReflectionServicer(Authorization(), admission, ["a.Service"], Telemetry())
        handler: Any = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        name = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name
        async with (
            serving(grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": handler})) as target,
            grpc.aio.insecure_channel(target) as channel,
        ):
            reader: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(timeout=30)
            await reader.write(question)
            await reader.read()
            with UnreadAnswers(target) as peer:
                peer.call(f"{name}/ServerReflectionInfo", question)
                await until(lambda: len(admission.tasks) == 2)
                await until(lambda: len(admission.tasks) == 1)
                await reader.write(question)
                assert (await reader.read()).list_services_response.service[0].name == "a.Service"
            reader.cancel()
