"""The engines serve what handlers of gRPC expect: kinds of methods, metadata, statuses, deadlines, cancellation."""

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from session_notes_server.identity.callers import Certificates
from session_notes_server.rpc.engines import open_engine
from session_notes_server.rpc.engines.native import connection
from session_notes_server.settings import EngineName, Settings

from tests.access.callers import Authority
from tests.engines import PlainCaller, run_engine, service

MEBIBYTE = 1024**2


async def test_all_kinds_of_methods(engine: EngineName) -> None:
    """Requests and responses are single messages or streams, in each combination."""

    async def unary_unary(request: bytes, _: Any) -> bytes:
        return request * 2

    async def unary_stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
        for byte in request:
            yield bytes([byte])

    async def stream_unary(requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b"".join([request async for request in requests])

    async def stream_stream(requests: AsyncIterator[bytes], context: Any) -> None:
        async for request in requests:
            await context.write(request * 2)

    handlers = service(
        UnaryUnary=grpc.unary_unary_rpc_method_handler(unary_unary),
        UnaryStream=grpc.unary_stream_rpc_method_handler(unary_stream),
        StreamUnary=grpc.stream_unary_rpc_method_handler(stream_unary),
        StreamStream=grpc.stream_stream_rpc_method_handler(stream_stream),
    )
    async with run_engine(engine, lambda _: [handlers]) as (target, _), grpc.aio.insecure_channel(target) as channel:
        calls: Any = channel
        parts = [b"a", b"", b"c" * MEBIBYTE]
        assert await calls.unary_unary("/a.Service/UnaryUnary")(b"ab", timeout=10) == b"abab"
        assert [part async for part in calls.unary_stream("/a.Service/UnaryStream")(b"ab", timeout=10)] == [b"a", b"b"]
        assert await calls.stream_unary("/a.Service/StreamUnary")(iter(parts), timeout=10) == b"".join(parts)
        stream = calls.stream_stream("/a.Service/StreamStream")(timeout=10)
        for part in parts:  # Each response arrives before the next request is sent.
            await stream.write(part)
            assert await stream.read() == part * 2
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK


BINARY = bytes(range(256))


async def test_metadata_arrives_unchanged(engine: EngineName) -> None:
    """Metadata of text and bytes arrives unchanged, in both directions, with repeated keys in order."""
    metadata = (("a-text", "1"), ("a-value-bin", BINARY), ("a-text", "2"), ("no-bytes-bin", b""), ("a-value-bin", b"a"))
    received = list[tuple[str, str | bytes]]()

    async def handle(_: bytes, context: Any) -> bytes:
        received.extend(context.invocation_metadata())
        await context.send_initial_metadata(metadata)
        context.set_trailing_metadata(metadata)
        return b""

    def of(pairs: Any, key: str) -> list[str | bytes]:
        return [value for name, value in pairs if name == key]

    handlers = service(Echo=grpc.unary_unary_rpc_method_handler(handle))
    async with run_engine(engine, lambda _: [handlers]) as (target, _), grpc.aio.insecure_channel(target) as channel:
        method: Any = channel.unary_unary("/a.Service/Echo")
        call = method(b"", timeout=10, metadata=metadata)
        await call
        for pairs in (received, await call.initial_metadata(), await call.trailing_metadata()):
            for key in {key for key, _ in metadata}:
                assert of(pairs, key) == of(metadata, key)


@pytest.mark.parametrize("message", ["", "100 % of %41", "Grüße, 世界 🙂", "two\nlines\tand \x7f"])
@pytest.mark.parametrize("responses", [0, 1])
async def test_a_status_arrives_unchanged(engine: EngineName, message: str, responses: int) -> None:
    """A status message of any text and the details of a status arrive unchanged, without and with a response."""

    async def fail(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for _ in range(responses):
            yield request
        await context.abort(grpc.StatusCode.ABORTED, message, (("a-detail-bin", BINARY),))

    handlers = service(Fail=grpc.unary_stream_rpc_method_handler(fail))
    async with run_engine(engine, lambda _: [handlers]) as (target, _), grpc.aio.insecure_channel(target) as channel:
        method: Any = channel.unary_stream("/a.Service/Fail")
        with pytest.raises(grpc.aio.AioRpcError) as error:
            _ = [response async for response in method(b"", timeout=10)]
        assert (error.value.code(), error.value.details()) == (grpc.StatusCode.ABORTED, message)
        assert ("a-detail-bin", BINARY) in tuple(error.value.trailing_metadata())


class Waiting:
    """A method that waits until it is cancelled, with events for both."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def handle(self, _: bytes, __: Any) -> bytes:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise AssertionError("never")

    def service(self, _: object) -> list[grpc.GenericRpcHandler]:
        """Return the handler of the service."""
        return [service(Wait=grpc.unary_unary_rpc_method_handler(self.handle))]


async def test_the_engine_keeps_deadlines(engine: EngineName) -> None:
    """At a call's deadline, its handler is cancelled and the call ended, even if the caller itself keeps none."""
    method = Waiting()
    async with run_engine(engine, method.service) as (target, _), PlainCaller(target) as caller:
        response = await asyncio.wait_for(caller.response(caller.call("Wait", {"grpc-timeout": "200m"})), 10)
        await asyncio.wait_for(method.cancelled.wait(), 10)
        assert response.headers.get("grpc-status") == "4"


@pytest.mark.parametrize("way", ["cancellation", "disconnect"])
async def test_a_caller_that_leaves_cancels_its_handler(engine: EngineName, way: str) -> None:
    """The handler of a call is cancelled when its caller cancels the call, or disconnects."""
    method = Waiting()
    async with run_engine(engine, method.service) as (target, _):
        if way == "cancellation":
            async with grpc.aio.insecure_channel(target) as channel:
                call: Any = channel.unary_unary("/a.Service/Wait")
                waiting = call(b"")
                await asyncio.wait_for(method.started.wait(), 10)
                waiting.cancel()
                await asyncio.wait_for(method.cancelled.wait(), 10)
        else:
            async with PlainCaller(target) as caller:
                caller.call("Wait")
                await asyncio.wait_for(method.started.wait(), 10)
            await asyncio.wait_for(method.cancelled.wait(), 10)


async def test_a_message_is_refused_at_its_prefix(engine: EngineName) -> None:
    """A message that announces 4 GiB is refused before any of it has arrived, and its handler does not run."""
    method = Waiting()
    async with run_engine(engine, method.service) as (target, _), PlainCaller(target) as caller:
        call = caller.call("Wait", body=b"\0\xff\xff\xff\xff", ended=False)
        response = await asyncio.wait_for(caller.response(call), 10)
        assert response.headers["grpc-status"] == "8"
        assert not method.started.is_set()


async def test_bytes_that_no_handler_reads_are_bounded() -> None:
    """One connection may have 8 MiB waiting for handlers. Calls above that are refused, and other connections served.

    grpc.aio holds back all but 64 KiB of a connection instead.
    """
    started, reading = list[bytes](), asyncio.Event()

    async def receive(requests: AsyncIterator[bytes], _: Any) -> bytes:
        started.append(b"")
        await reading.wait()
        return b"".join([request async for request in requests])

    async def echo(request: bytes, _: Any) -> bytes:
        return request

    handlers = service(
        Receive=grpc.stream_unary_rpc_method_handler(receive), Echo=grpc.unary_unary_rpc_method_handler(echo)
    )
    message = bytes([0]) + (60_000).to_bytes(4, "big") + bytes(60_000)
    async with (
        run_engine(EngineName.NATIVE, lambda _: [handlers]) as (target, _),
        PlainCaller(target) as caller,
        grpc.aio.insecure_channel(target) as channel,
    ):
        await caller.response(caller.call("Echo"))  # Reads how much the engine accepts.
        calls = [caller.call("Receive", body=message) for _ in range(160)]
        async with asyncio.timeout(10):
            while len(started) < 160:  # noqa: ASYNC110 - no event marks the condition
                await asyncio.sleep(0.01)
        method: Any = channel.unary_unary("/a.Service/Echo")
        assert await method(b"a", timeout=10) == b"a"
        reading.set()
        statuses = Counter([(await caller.response(call)).headers["grpc-status"] for call in calls])
        assert statuses == {"0": 8 * MEBIBYTE // 60_005, "8": 160 - 8 * MEBIBYTE // 60_005}


@pytest.mark.parametrize("encrypted", [False, True])
async def test_a_stop_sends_what_is_queued(engine: EngineName, encrypted: bool, tmp_path: Path) -> None:
    """A response that its caller has yet to read when the engine stops still arrives completely."""
    done, certificates, tls = asyncio.Event(), None, None
    if encrypted:
        authority = Authority(tmp_path)
        served = authority.issue("served", "127.0.0.1")
        certificates = Certificates(served.cert, served.key, None)
        tls = ssl.create_default_context(cafile=str(authority.path))
        tls.set_alpn_protocols(["h2"])

    async def handle(_: bytes, __: Any) -> bytes:
        done.set()
        return bytes(2 * MEBIBYTE)

    handlers = service(Read=grpc.unary_unary_rpc_method_handler(handle))
    async with (
        run_engine(engine, lambda _: [handlers], certificates) as (target, server),
        PlainCaller(target, window=0, tls=tls) as caller,
    ):
        call = caller.call("Read")
        await asyncio.wait_for(done.wait(), 10)
        stop = asyncio.create_task(server.stop(30))
        await asyncio.sleep(0)
        caller.accept(2**31 - 1)
        response = await asyncio.wait_for(caller.response(call), 20)
        assert (len(response.body), response.headers.get("grpc-status")) == (2 * MEBIBYTE + 5, "0")
        await asyncio.wait_for(stop, 5)


async def test_a_stream_waits_for_its_caller(engine: EngineName) -> None:
    """A handler that streams responses to a caller that does not read them is held back, and goes on when it reads."""
    sizes = list[int]()

    async def handle(_: bytes, __: Any) -> AsyncIterator[bytes]:
        for size in [MEBIBYTE] * 20:
            sizes.append(size)
            yield bytes(size)

    handlers = service(Read=grpc.unary_stream_rpc_method_handler(handle))
    async with (
        run_engine(engine, lambda _: [handlers]) as (target, _),
        PlainCaller(target, window=0) as caller,
        grpc.aio.insecure_channel(target) as channel,
    ):
        call = caller.call("Read")
        other: Any = channel.unary_stream("/a.Service/Read")
        assert len([response async for response in other(b"", timeout=30)]) == 20
        assert 0 < len(sizes) - 20 < 5
        caller.accept(2**31 - 1)
        response = await asyncio.wait_for(caller.response(call), 30)
        assert len(response.body) == 20 * (MEBIBYTE + 5)


async def test_a_silent_caller_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native engine closes the connection of a caller that answers no ping, and keeps that of one that does."""
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.1)
    monkeypatch.setattr(connection, "PONG_SECONDS", 2.0)
    released = asyncio.Event()

    async def handle(_: bytes, __: Any) -> bytes:
        await released.wait()
        return b""

    handlers = service(Wait=grpc.unary_unary_rpc_method_handler(handle))
    async with (
        run_engine(EngineName.NATIVE, lambda _: [handlers]) as (target, _),
        PlainCaller(target) as answering,
        PlainCaller(target) as silent,
    ):
        response = asyncio.create_task(answering.response(answering.call("Wait")))
        silent.call("Wait")
        await asyncio.wait_for(silent.closed(), 20)
        released.set()
        assert (await asyncio.wait_for(response, 20)).headers["grpc-status"] == "0"


async def test_a_host_with_two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """All addresses of a host are served, on one port. The native engine resolves the host itself."""
    entries = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", 0)) for number in (2, 3)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    engine = open_engine(Settings(engine=EngineName.NATIVE), None)
    with engine.listening("both.example.org:0") as address:
        port = int(address.removeprefix("both.example.org:"))
        await engine.start()
        for number in (2, 3):
            async with PlainCaller(f"127.0.0.{number}:{port}") as caller:
                assert (await caller.response(caller.call("Unknown"))).headers["grpc-status"] == "12"
        await engine.stop(0)
