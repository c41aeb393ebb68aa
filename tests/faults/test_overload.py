"""More than the sidecar takes is RESOURCE_EXHAUSTED at once; health and others' calls go on, memory stays flat."""

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
from tests.faults.test_peers import descriptors, others_are_well
from tests.stores import StoreServer, valkey_program
from tests.support import Refusal, SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, refused

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
GET_NOTES = "/session_notes.v1.SessionNotes/GetNotes"
MEBIBYTE = 1 << 20
# On a busy machine; a call that is held takes 5 s.
AT_ONCE_SECONDS = 2.0
TEN = timedelta(seconds=10)


@pytest.fixture(scope="module")
def store() -> Iterator[StoreServer]:
    """A Valkey of our own, to be paused."""
    with StoreServer(valkey_program()) as server:
        yield server


@pytest.fixture(scope="module")
def small(store: StoreServer) -> Iterator[Sidecar]:
    """A sidecar that takes 200 calls, messages of 1 MiB, and so 16 MiB of them."""
    with Sidecar(store.url, flags=["--max-concurrent-calls", "200", "--max-message-bytes", str(MEBIBYTE)]) as sidecar:
        yield sidecar


@pytest.fixture(scope="module")
def target() -> Iterator[Sidecar]:
    """A sidecar with its default limits."""
    with Sidecar() as sidecar:
        yield sidecar


def memory(sidecar: Sidecar) -> int:
    """How many bytes of memory the sidecar has."""
    assert sidecar.process is not None
    status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@contextmanager
def paused(store: StoreServer) -> Iterator[None]:
    """A block within which the store answers nobody."""
    store.pause()
    try:
        yield
    finally:
        store.resume()


async def ends(calls: list[Any]) -> list[Refusal]:
    """How calls ended, in the order of the calls; of a success the code is OK."""
    found = []
    for end in await asyncio.gather(*calls, return_exceptions=True):
        found.append(Refusal())
        if isinstance(end, grpc.RpcError):
            found[-1].read(end)
        else:
            assert not isinstance(end, BaseException), end
    return found


def overloaded(refusal: Refusal) -> bool:
    """Whether a call was refused as it must be."""
    return (refusal.code, refusal.reason) == (EXHAUSTED, "OVERLOADED") and refusal.retry_delay_seconds == 0.5


async def until_done(calls: Sequence[asyncio.Future[Any]], count: int, seconds: float) -> None:
    """Waits until so many of the calls have ended."""
    left = set(calls)
    async with asyncio.timeout(seconds):
        while len(calls) - len(left) < count:
            _, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)


def test_a_batch_of_too_much_is_refused(small: Sidecar) -> None:
    """An answer takes no more than all calls may hold: beyond that, too large, however often one asks again."""
    with new_channel(small.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", notes("x" * 200_000))
        asked = [GetNotesRequest(session_id=session.id)] * 83
        fits = session.notes.BatchGetNotes(BatchGetNotesRequest(requests=asked), timeout=20)
        assert all(answer.notes.summary for answer in fits.responses)
        with refused(EXHAUSTED, "TOO_LARGE") as error:
            session.notes.BatchGetNotes(BatchGetNotesRequest(requests=asked * 12), timeout=20)
    assert (error.metadata["field"], error.metadata["limit"]) == ("responses", str(16 * MEBIBYTE))


async def test_a_flood_is_refused_at_once(small: Sidecar, store: StoreServer) -> None:
    """600 calls where 200 may be, of a store that is silent: 400 are refused at once, health answers, 200 are OK."""
    request = GetNotesRequest(session_id=new_session_id()).SerializeToString()
    async with grpc.aio.insecure_channel(small.target) as channel:
        await channel.channel_ready()
        get_notes: Any = channel.unary_unary(GET_NOTES)
        with paused(store):
            calls = [asyncio.ensure_future(get_notes(request, timeout=20)) for _ in range(600)]
            await until_done(calls, 400, AT_ONCE_SECONDS)
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=AT_ONCE_SECONDS)
            assert (await check).status
            refused = await ends([call for call in calls if call.done()])
        assert len(refused) == 400
        assert all(map(overloaded, refused)), refused[0]
        assert Counter(end.code for end in await ends(calls)) == {EXHAUSTED: 400, grpc.StatusCode.OK: 200}
    small.wait_until_serving()
    others_are_well(small)


async def test_a_flood_of_large_messages_leaves_memory_flat(
    small: Sidecar, store: StoreServer, effort: Callable[[int, int], int]
) -> None:
    """Round after round 190 MiB in as many calls, at a silent store: what is beyond 16 MiB is refused at once."""
    turns = [Turn(speaker="user", text="x" * 60_000)] * 17
    before, sizes = memory(small), []
    for _ in range(effort(5, 100)):
        async with grpc.aio.insecure_channel(small.target) as channel:
            append: Any = channel.unary_unary("/session_notes.v1.SessionState/AppendTurns")
            with paused(store):
                requests = (AppendTurnsRequest(session_id=new_session_id(), turns=turns) for _ in range(190))
                calls = [asyncio.ensure_future(append(one.SerializeToString(), timeout=20)) for one in requests]
                await until_done(calls, 190 - 17, 3 * AT_ONCE_SECONDS)
                sizes.append(memory(small) - before)
            assert sum(map(overloaded, await ends(calls))) >= 190 - 17
        small.wait_until_serving()
    assert max(sizes) < 192 * MEBIBYTE, [size // MEBIBYTE for size in sizes]
    assert sizes[-1] - sizes[0] < 96 * MEBIBYTE, [size // MEBIBYTE for size in sizes]


async def test_a_flood_of_large_checks_leaves_memory_flat(target: Sidecar) -> None:
    """100 Checks of 4 MB each, from callers whom nobody asks who they are: a part at a time, all are answered."""
    body = health_pb2.HealthCheckRequest(service="x" * 4_000_000).SerializeToString()
    before, most = memory(target), 0

    async def check() -> None:
        async with grpc.aio.insecure_channel(target.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            call: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
            await call(body, timeout=30)

    calls = [asyncio.ensure_future(check()) for _ in range(100)]
    while not all(call.done() for call in calls):
        most = max(most, memory(target) - before)
        await asyncio.wait(calls, timeout=0.005, return_when=asyncio.FIRST_COMPLETED)
    found = Counter(refusal.code for refusal in await ends(calls))
    assert found.keys() == {EXHAUSTED}, found
    assert most < 180 * MEBIBYTE, most // MEBIBYTE
    others_are_well(target)


def test_requests_that_do_not_come_are_given_up(target: Sidecar) -> None:
    """300 calls that send headers and never a message: all but a few are refused within seconds, others are served."""
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(60)
        yield from ()

    with new_channel(target.target) as channel:
        method: Any = channel.stream_unary(GET_NOTES)
        calls = [method.future(nothing(), timeout=60) for _ in range(300)]
        try:
            others_are_well(target)
            eventually(lambda: sum(call.done() for call in calls) >= 300 - 8)
            assert all(call.code() == EXHAUSTED for call in calls if call.done())
            others_are_well(target)
        finally:
            for call in calls:
                call.cancel()
            never.set()


def test_watches_beyond_the_limit_are_refused(target: Sidecar) -> None:
    """Of 300 health Watches 200 hear SERVING, the rest are refused at once; others and Checks are served."""
    with new_channel(target.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(300)]
        try:
            heard = Counter[object]()
            for watch in watches:
                try:
                    heard[next(watch).status] += 1
                except grpc.RpcError as error:
                    refusal = Refusal()
                    refusal.read(error)
                    heard[refusal.reason] += 1
            assert heard == {health_pb2.HealthCheckResponse.SERVING: 200, "OVERLOADED": 100}
            others_are_well(target)
        finally:
            for watch in watches:
                watch.cancel()


def test_connections_that_say_nothing_are_closed(target: Sidecar, tmp_path: Path) -> None:
    """500 connections in silence, and 100 that begin TLS and stop, are closed by the sidecar after 5 s."""
    mine = Authority(tmp_path).issue("sidecar", "localhost", "127.0.0.1")
    flags = ["--tls-cert", str(mine.cert), "--tls-key", str(mine.key)]
    with Sidecar(flags=flags, wait=False) as encrypted, ExitStack() as stack:
        before = [descriptors(target), descriptors(encrypted)]
        for _ in range(500):
            stack.enter_context(socket.create_connection(address(target)))
        for _ in range(100):
            stack.enter_context(socket.create_connection(address(encrypted))).sendall(b"\x16\x03\x01\x02\x00\x01")
        eventually(lambda: descriptors(target) >= before[0] + 400)
        others_are_well(target)
        eventually(lambda: descriptors(target) <= before[0] + 20, 20)
        eventually(lambda: descriptors(encrypted) <= before[1] + 20, 20)


def address(sidecar: Sidecar) -> tuple[str, int]:
    """Where it listens, for sockets."""
    host, _, port = sidecar.target.rpartition(":")
    return host, int(port)


def test_connections_leave_descriptors_to_the_store() -> None:
    """With 300 descriptors, 400 connections: some are left for the store and for tokens, and calls go on."""
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
        others_are_well_soon(sidecar)


def others_are_well_soon(sidecar: Sidecar) -> None:
    """Once connections are gone, new ones are taken."""
    eventually(lambda: sidecar.health() == health_pb2.HealthCheckResponse.SERVING)
    others_are_well(sidecar)


@pytest.fixture(scope="module")
def aging() -> Iterator[Sidecar]:
    """A sidecar whose connections get old soon."""
    with Sidecar(flags=["--max-connection-age", "200ms"]) as sidecar:
        yield sidecar


def test_a_connection_ends_at_its_age(aging: Sidecar) -> None:
    """A connection that is held without calls is told to go (GOAWAY) at its age."""
    frame_type_goaway = 7
    with socket.create_connection(address(aging), timeout=5) as peer, peer.makefile("rb") as stream:
        peer.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5))
        while (head := stream.read(9))[3] != frame_type_goaway:
            stream.read(int.from_bytes(head[:3]))


async def test_callers_do_not_notice_the_age(aging: Sidecar, effort: Callable[[int, int], int]) -> None:
    """Primaries that call on and on, across many ages of their connection, see no error."""
    end = time.monotonic() + effort(2, 60)
    session_id = new_session_id()

    async def call_on(client: AsyncPrimaryClient) -> int:
        count = 0
        while time.monotonic() < end:
            await client.append_turns(session_id, [SdkTurn("user", "x")])
            await client.get_notes(session_id)
            count += 1
        return count

    async with AsyncPrimaryClient(aging.target, timeout=TEN, state_timeout=TEN) as client:
        counts = await asyncio.gather(*(call_on(client) for _ in range(5)))
        assert (await client.get_session(session_id)).turn_count == sum(counts)


def test_metadata_below_the_limit_is_never_refused(target: Sidecar) -> None:
    """12 KB of metadata is taken every time, 17 KB never: no refusals at random."""
    request = WriteNotesRequest(session_id=new_session_id(), notes=notes())
    with new_channel(target.target) as channel:
        session = SessionCalls(channel, request.session_id)
        for _ in range(8):
            session.notes.WriteNotes(request, timeout=10, metadata=(("x-more", "m" * 12_000),))
            with pytest.raises(grpc.RpcError) as refused:
                session.notes.WriteNotes(request, timeout=10, metadata=(("x-more", "m" * 17_000),))
            assert refused.value.code() == EXHAUSTED
        assert session.get_notes().run.number == 8
