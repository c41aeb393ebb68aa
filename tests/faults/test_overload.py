"""Overload: excess calls are RESOURCE_EXHAUSTED at once, health and other calls continue, and memory stays flat."""

import asyncio
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes import AsyncPrimaryClient
from session_notes import Turn as SdkTurn
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest, WriteNotesRequest
from session_notes.v1.session_state_pb2 import AppendTurnsRequest
from session_notes.v1.turn_pb2 import Turn

from tests.access.callers import Authority
from tests.faults.measures import (
    MEBIBYTE,
    assert_serves_others,
    assert_serves_others_soon,
    descriptors,
    resident_bytes,
)
from tests.stores import StoreServer, valkey_program
from tests.support import Refusal, SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, refused

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
GET_NOTES = "/session_notes.v1.SessionNotes/GetNotes"
# Long enough for a busy machine. A call that is held takes 5 s.
AT_ONCE_SECONDS = 2.0
TEN = timedelta(seconds=10)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreServer]:
    """A store to pause."""
    with StoreServer(valkey_program()) as server:
        yield server


@pytest.fixture(scope="module")
def small(store: StoreServer) -> Iterator[Sidecar]:
    """A sidecar that admits 200 calls, messages of 1 MiB, and so 16 MiB in total."""
    with Sidecar(store.url, flags=["--max-concurrent-calls", "200", "--max-message-bytes", str(MEBIBYTE)]) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def target() -> Iterator[Sidecar]:
    """A sidecar with its default limits."""
    with Sidecar() as sidecar:
        yield sidecar


@contextmanager
def paused(store: StoreServer) -> Iterator[None]:
    """Pause the store within the block."""
    store.pause()
    try:
        yield
    finally:
        store.resume()


async def results(calls: list[Any]) -> list[Refusal]:
    """Return the errors of calls, in order; the code of a success is OK."""
    refusals = []
    for result in await asyncio.gather(*calls, return_exceptions=True):
        refusals.append(Refusal())
        if isinstance(result, grpc.RpcError):
            refusals[-1].read(result)
        else:
            assert not isinstance(result, BaseException), result
    return refusals


def is_overloaded(refusal: Refusal) -> bool:
    """Return whether a call was rejected as overloaded."""
    return (refusal.code, refusal.reason) == (EXHAUSTED, "OVERLOADED") and refusal.retry_delay_seconds == 0.5


async def until_done(calls: Sequence[asyncio.Future[Any]], count: int, seconds: float) -> None:
    """Wait until a number of the calls have ended."""
    pending = set(calls)
    async with asyncio.timeout(seconds):
        while len(calls) - len(pending) < count:
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)


def test_a_batch_response_above_the_limit_is_rejected(small: Sidecar) -> None:
    """A batch whose response exceeds the limit for all calls together is TOO_LARGE, with that limit."""
    with new_channel(small.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", notes("x" * 200_000))
        requests = [GetNotesRequest(session_id=session.id)] * 83
        fits = session.notes.BatchGetNotes(BatchGetNotesRequest(requests=requests), timeout=20)
        assert all(reading.notes.summary for reading in fits.responses)
        with refused(EXHAUSTED, "TOO_LARGE") as error:
            session.notes.BatchGetNotes(BatchGetNotesRequest(requests=requests * 12), timeout=20)
    assert (error.metadata["field"], error.metadata["limit"]) == ("responses", str(16 * MEBIBYTE))


def test_a_response_that_can_never_fit_is_too_large(small: Sidecar) -> None:
    """A response that exceeds the limit only with all its parts is TOO_LARGE too: OVERLOADED would invite retries."""
    with new_channel(small.target) as channel:
        large, little = (SessionCalls(channel, new_session_id()) for _ in range(2))
        large.write_notes("run-1", notes("x" * 200_000))
        little.write_notes("run-1", notes("x" * 16_000))
        requests = [GetNotesRequest(session_id=large.id)] * 83 + [GetNotesRequest(session_id=little.id)] * 20
        with refused(EXHAUSTED, "TOO_LARGE") as error:
            large.notes.BatchGetNotes(BatchGetNotesRequest(requests=requests), timeout=20)
    assert error.metadata["limit"] == str(16 * MEBIBYTE)


async def test_excess_calls_are_rejected_at_once(small: Sidecar, store: StoreServer) -> None:
    """Of 600 calls at a silent store, the 400 above the limit are rejected at once, health responds, and 200 are OK."""
    request = GetNotesRequest(session_id=new_session_id()).SerializeToString()
    async with grpc.aio.insecure_channel(small.target) as channel:
        await channel.channel_ready()
        get_notes: Any = channel.unary_unary(GET_NOTES)
        with paused(store):
            calls = [asyncio.ensure_future(get_notes(request, timeout=20)) for _ in range(600)]
            await until_done(calls, 400, AT_ONCE_SECONDS)
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=AT_ONCE_SECONDS)
            assert (await check).status
            rejected = await results([call for call in calls if call.done()])
        assert len(rejected) == 400
        assert all(map(is_overloaded, rejected)), rejected[0]
        assert Counter(result.code for result in await results(calls)) == {EXHAUSTED: 400, grpc.StatusCode.OK: 200}
    small.wait_until_serving()
    assert_serves_others(small)


async def test_large_messages_in_excess_do_not_grow_memory(
    small: Sidecar, store: StoreServer, effort: Callable[[int, int], int]
) -> None:
    """Of 190 MiB in 190 calls at a silent store, all above 16 MiB are rejected at once, and memory stays flat."""
    turns = [Turn(speaker="user", text="x" * 60_000)] * 17
    before, sizes = resident_bytes(small), []
    for _ in range(effort(5, 100)):
        async with grpc.aio.insecure_channel(small.target) as channel:
            append: Any = channel.unary_unary("/session_notes.v1.SessionState/AppendTurns")
            with paused(store):
                requests = (AppendTurnsRequest(session_id=new_session_id(), turns=turns) for _ in range(190))
                calls = [asyncio.ensure_future(append(request.SerializeToString(), timeout=20)) for request in requests]
                await until_done(calls, 190 - 17, 3 * AT_ONCE_SECONDS)
                sizes.append(resident_bytes(small) - before)
            assert sum(map(is_overloaded, await results(calls))) >= 190 - 17
        small.wait_until_serving()
    assert max(sizes) < 192 * MEBIBYTE, [size // MEBIBYTE for size in sizes]
    assert sizes[-1] - sizes[0] < 96 * MEBIBYTE, [size // MEBIBYTE for size in sizes]


async def test_large_health_checks_do_not_grow_memory(target: Sidecar) -> None:
    """100 unauthenticated health Checks of 4 MB each are read a few at a time, and all get a response."""
    body = health_pb2.HealthCheckRequest(service="x" * 4_000_000).SerializeToString()
    before, peak = resident_bytes(target), 0

    async def check() -> None:
        async with grpc.aio.insecure_channel(target.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            await call(body, timeout=30)

    calls = [asyncio.ensure_future(check()) for _ in range(100)]
    while not all(call.done() for call in calls):
        peak = max(peak, resident_bytes(target) - before)
        await asyncio.wait(calls, timeout=0.005, return_when=asyncio.FIRST_COMPLETED)
    codes = Counter(refusal.code for refusal in await results(calls))
    assert codes.keys() == {EXHAUSTED}, codes
    assert peak < 180 * MEBIBYTE, peak // MEBIBYTE
    assert_serves_others(target)


def test_calls_without_a_message_are_rejected(target: Sidecar) -> None:
    """Of 300 calls that send headers and no message, all but a few are rejected within seconds; others are served."""
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(60)
        yield from ()

    with new_channel(target.target) as channel:
        method: Any = channel.stream_unary(GET_NOTES)
        calls = [method.future(nothing(), timeout=60) for _ in range(300)]
        try:
            assert_serves_others(target)
            eventually(lambda: sum(call.done() for call in calls) >= 300 - 8)
            assert all(call.code() == EXHAUSTED for call in calls if call.done())
            assert_serves_others(target)
        finally:
            for call in calls:
                call.cancel()
            never.set()


def test_health_watches_above_the_limit_are_rejected(target: Sidecar) -> None:
    """Of 300 health Watches 200 get SERVING and 100 are rejected at once, while others and Checks are served."""
    with new_channel(target.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(300)]
        try:
            outcomes = Counter[object]()
            for watch in watches:
                try:
                    outcomes[next(watch).status] += 1
                except grpc.RpcError as error:
                    refusal = Refusal()
                    refusal.read(error)
                    outcomes[refusal.reason] += 1
            assert outcomes == {health_pb2.HealthCheckResponse.SERVING: 200, "OVERLOADED": 100}
            assert_serves_others(target)
        finally:
            for watch in watches:
                watch.cancel()


def test_silent_connections_are_closed(target: Sidecar, tmp_path: Path) -> None:
    """500 silent connections, and 100 that stop within the TLS handshake, are closed after 5 s."""
    pair = Authority(tmp_path).issue("sidecar", "localhost", "127.0.0.1")
    flags = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    with Sidecar(flags=flags, wait=False) as encrypted, ExitStack() as stack:
        before = [descriptors(target), descriptors(encrypted)]
        for _ in range(500):
            stack.enter_context(socket.create_connection(address(target)))
        for _ in range(100):
            stack.enter_context(socket.create_connection(address(encrypted))).sendall(b"\x16\x03\x01\x02\x00\x01")
        eventually(lambda: descriptors(target) >= before[0] + 400)
        assert_serves_others(target)
        eventually(lambda: descriptors(target) <= before[0] + 20, 20)
        eventually(lambda: descriptors(encrypted) <= before[1] + 20, 20)


def address(sidecar: Sidecar) -> tuple[str, int]:
    """Return the sidecar's host and port."""
    host, _, port = sidecar.target.rpartition(":")
    return host, int(port)


def test_connections_leave_descriptors_for_the_store() -> None:
    """400 connections at a limit of 300 descriptors leave some for the store and for tokens, and calls continue."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as flood:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, before[1]))
        try:
            sidecar = flood.enter_context(Sidecar())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with new_channel(sidecar.target) as channel, ExitStack() as peers:
            session = SessionCalls(channel, new_session_id())
            session.write_notes("run-1", "said")
            for _ in range(400):
                peers.enter_context(socket.create_connection(address(sidecar)))
            eventually(lambda: descriptors(sidecar) >= 200)
            assert session.get_notes().notes.summary == "said"
            assert max(descriptors(sidecar) for _ in range(20)) <= 250
        assert_serves_others_soon(sidecar)


@pytest.fixture(scope="module")
def aging() -> Iterator[Sidecar]:
    """A sidecar with a maximum connection age of 200 ms."""
    with Sidecar(flags=["--max-connection-age", "200ms"]) as sidecar:
        yield sidecar


def test_a_connection_ends_at_the_maximum_age(aging: Sidecar) -> None:
    """An idle connection gets a GOAWAY at the maximum age."""
    frame_type_goaway = 7
    with socket.create_connection(address(aging), timeout=5) as peer, peer.makefile("rb") as stream:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        while (head := stream.read(9))[3] != frame_type_goaway:
            stream.read(int.from_bytes(head[:3]))


async def test_callers_do_not_notice_the_maximum_age(aging: Sidecar, effort: Callable[[int, int], int]) -> None:
    """Primaries that call without a pause over many connection ages get no error."""
    end = time.monotonic() + effort(2, 60)
    session_id = new_session_id()

    async def call_repeatedly(client: AsyncPrimaryClient) -> int:
        count = 0
        while time.monotonic() < end:
            await client.append_turns(session_id, [SdkTurn("user", "x")])
            await client.get_notes(session_id)
            count += 1
        return count

    async with AsyncPrimaryClient(aging.target, timeout=TEN, state_timeout=TEN) as client:
        counts = await asyncio.gather(*(call_repeatedly(client) for _ in range(5)))
        assert (await client.get_session(session_id)).turn_count == sum(counts)


def test_metadata_is_not_rejected_at_random(target: Sidecar) -> None:
    """12 KB of metadata is accepted every time, 17 KB never."""
    request = WriteNotesRequest(session_id=new_session_id(), notes=notes())
    with new_channel(target.target) as channel:
        session = SessionCalls(channel, request.session_id)
        for _ in range(8):
            session.notes.WriteNotes(request, timeout=10, metadata=(("x-more", "m" * 12_000),))
            with pytest.raises(grpc.RpcError) as rejected:
                session.notes.WriteNotes(request, timeout=10, metadata=(("x-more", "m" * 17_000),))
            assert rejected.value.code() == EXHAUSTED
        assert session.get_notes().run.number == 8
