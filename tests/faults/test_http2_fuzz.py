"""Random frames: valid ones in any order, some of them mutated. Nothing is left of them, and others are served."""

import asyncio
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from random import Random
from typing import Any

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_state_pb2 import GetSessionRequest
from session_notes_server.rpc import errors, transfers
from session_notes_server.rpc.admission import Admission
from session_notes_server.rpc.engines import Engine
from session_notes_server.rpc.engines.native.server import NativeEngine
from session_notes_server.rpc.errors import StatusError
from session_notes_server.settings import EngineName

from tests.engines import run_engine, service
from tests.faults.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    Client,
    fields,
    frame,
    message,
    request_fields,
    reset,
    settings,
    window_update,
)
from tests.faults.measures import MEBIBYTE, assert_serves_others, resident_bytes
from tests.support import Sidecar, eventually

LARGE_BYTES = 300_000
WINDOWS = (0, 1, 1_000, 65_535, 1 << 20)


class Conversation:
    """Random frames of one connection.

    Args:
        rng: The source of random choices.
        requests: Requests by method. Other requests of these methods are random bytes.
    """

    def __init__(self, rng: Random, requests: dict[str, bytes]) -> None:
        self._rng = rng
        self._requests = requests
        self._last = -1
        self._windows: dict[int, int] = {}
        """How many bytes each stream may still send."""
        self._rudeness = rng.choice((0.0, 0.0, 0.002, 0.02, 0.3))
        """How often a frame breaks the rules of HTTP/2. Most such frames end the connection."""

    def next(self) -> bytes:
        """Draw one or a few frames."""
        if self._rng.random() < self._rudeness:
            return self._rude()
        kind = self._rng.choice((*("call",) * 4, *("data",) * 4, "end", "trailers", "reset", "window", "other"))
        if kind == "window":
            streams = (0, self._rng.choice(list(self._windows))) if self._windows else (0,)
            return window_update(self._rng.choice(streams), self._rng.choice((1, 100, 65_535, 1 << 18)))
        if kind == "other":
            setting = {self._rng.choice((1, 3, 4, 4, 4, 6, 77)): self._rng.choice((*WINDOWS, 16_384))}
            ping, priority = frame(PING, body=self._rng.randbytes(8)), frame(PRIORITY, 0, 1, bytes(5))
            return self._rng.choice((ping, priority, settings(setting), frame(99, body=b"x")))
        if kind == "call" or not self._windows:
            return self._call()
        stream = self._rng.choice(list(self._windows))
        if kind == "data":
            return self._data(stream)
        del self._windows[stream]
        if kind == "reset":
            return reset(stream, self._rng.choice((0, 8, 1 << 31)))
        if kind == "trailers":
            return frame(HEADERS, END_HEADERS | END_STREAM, stream, fields([("x-trailer", "1")]))
        return frame(DATA, END_STREAM, stream)

    def _call(self) -> bytes:
        rng = self._rng
        self._last += 2
        stream, method = self._last, rng.choice(list(self._requests))
        sized = [("x-sized", "x" * rng.choice((1, 100, 3_000, 20_000)))]
        timed = [("grpc-timeout", rng.choice(("1m", "10m", "soon", "99999999H")))]
        packed = [("grpc-encoding", rng.choice(("gzip", "unknown")))]
        metadata = [pair for pairs in (sized, timed, packed) if rng.random() < 0.15 for pair in pairs]
        block, ended = request_fields(method, metadata), rng.random() < 0.1
        flags = (END_STREAM if ended else 0) | (0 if len(block) > 16_384 else END_HEADERS)
        frames = frame(HEADERS, flags, stream, block[:16_384])
        if len(block) > 16_384:
            frames += frame(CONTINUATION, END_HEADERS, stream, block[16_384:])
        body = message(rng.choice((self._requests[method], rng.randbytes(rng.choice((0, 5, 1_000, 10_000))))))
        if rng.random() < 0.1:
            body = rng.randbytes(rng.randrange(20))
        if not ended and rng.random() < 0.7:
            ended = rng.random() < 0.6
            frames += frame(DATA, END_STREAM if ended else 0, stream, body)
        if not ended:
            self._windows[stream] = 60_000 - len(body)
        if rng.random() < 0.15:
            self._windows.pop(stream, None)
            frames += reset(stream)
        return frames

    def _data(self, stream: int) -> bytes:
        size = self._rng.choice((0, 1, 5, 100, 16_000))
        size = size if size + 6 <= self._windows[stream] else 0
        data = self._rng.randbytes(size)
        if size and self._rng.random() < 0.1:
            self._windows[stream] -= size + 6
            return frame(DATA, PADDED, stream, b"\5" + data + bytes(5))
        self._windows[stream] -= size
        return frame(DATA, 0, stream, data)

    def _rude(self) -> bytes:
        rng = self._rng
        stream = rng.choice((0, 1, 2, max(self._last, 1), self._last + 2))
        kind = rng.choice(("mutated", "mutated", "short", "window", "noise", "goaway", "setting", "late"))
        if kind == "mutated":
            rudeness, self._rudeness = self._rudeness, 0.0
            data = bytearray(b"".join(self.next() for _ in range(3)))
            self._rudeness = rudeness
            for _ in range(rng.choice((1, 1, 3))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            return bytes(data)
        if kind == "short":
            return frame(rng.randrange(12), rng.randrange(256), stream, rng.randbytes(rng.randrange(20)))
        if kind == "window":
            return window_update(stream, rng.choice((0, (1 << 31) - 1)))
        if kind == "noise":
            return rng.randbytes(rng.randrange(60))
        if kind == "goaway":
            return frame(GOAWAY, body=struct.pack(">II", 0, rng.randrange(5)))
        if kind == "setting":
            return settings({rng.choice((2, 4, 5)): rng.choice((7, 1 << 31))})
        return frame(DATA, rng.choice((0, END_STREAM)), stream, b"late")


def converse(target: str, requests: dict[str, bytes], rng: Random, seconds: float) -> int:
    """Have conversations, one after the other, and return how many."""
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        count += 1
        preface = PREFACE + settings({INITIAL_WINDOW_SIZE: rng.choice(WINDOWS)})
        with suppress(OSError), Client(target, preface) as client:
            conversation, reads = Conversation(rng, requests), rng.random() < 0.7
            for _ in range(rng.choice((5, 50, 300))):
                client.socket.settimeout(5)
                client.socket.sendall(b"".join(conversation.next() for _ in range(rng.choice((1, 3, 30)))))
                client.socket.setblocking(False)
                with suppress(BlockingIOError):
                    if reads and not client.socket.recv(1 << 20):
                        break
            if rng.random() < 0.3:  # Close with a reset instead of an end.
                client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return count


async def converse_in_threads(target: str, requests: dict[str, bytes], seed: int, seconds: float) -> None:
    """Have conversations in three threads."""
    rngs = [Random(f"{seed} {number}") for number in range(3)]
    await asyncio.gather(*(asyncio.to_thread(converse, target, requests, rng, seconds) for rng in rngs))


def handlers(admission: Admission) -> grpc.GenericRpcHandler:
    """Return handlers of small and large responses that end as the boundary's do, and a stream."""

    def of(size: int) -> Any:
        async def handle(_: object, context: Any) -> bytes:
            call = None
            try:
                call = admission.admit(context)
                await call.read_request(large=size == LARGE_BYTES)
                if size == LARGE_BYTES:
                    await call.wait_to_respond()
                await asyncio.sleep(random.choice((0, 0, 0.01)))
                call.hold_response(size, droppable=True)
                return bytes(size)
            except StatusError as error:
                status = error
            except asyncio.CancelledError:
                status = errors.shutting_down()
            if call is not None:
                call.sending()
            await context.abort(status.code, status.message, status.trailing_metadata())
            raise AssertionError("abort always raises")

        return grpc.stream_unary_rpc_method_handler(handle)

    async def echo(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    return service(Small=of(100), Large=of(LARGE_BYTES), Echo=grpc.stream_stream_rpc_method_handler(echo))


async def test_nothing_is_left_of_random_frames(
    engine: EngineName,
    seed: int,
    effort: Callable[[int, int], int],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After conversations of random frames, the native engine holds no call, byte, permit or task of them."""
    if engine is not EngineName.NATIVE:
        pytest.skip("looks into the native engine")
    monkeypatch.setattr(transfers, "RESPONSE_SECONDS", 1.0)
    failures = list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    admissions = list[Admission]()

    def served(engine: Engine) -> list[grpc.GenericRpcHandler]:
        admissions.append(Admission(engine, calls=200, held_bytes=16 * MEBIBYTE, message_bytes=MEBIBYTE))
        return [handlers(admissions[0])]

    requests = {f"a.Service/{method}": b"" for method in ("Small", "Large", "Echo", "Unknown")}
    async with run_engine(engine, served) as (target, running):
        assert isinstance(running, NativeEngine)
        admission = admissions[0]
        sweep = asyncio.create_task(admission.transfers.sweep())
        await converse_in_threads(target, requests, seed, effort(3, 60))
        async with asyncio.timeout(30):
            while running.connections or admission.tasks:  # noqa: ASYNC110 - no event marks the condition
                await asyncio.sleep(0.05)
        sweep.cancel()
        assert running.started > 1_000
        assert (running.waiting.total, running._listeners[0]._open) == (0, 0)
        assert (admission._calls.total, admission._bytes.total, admission._peers) == (0, 0, {})
        assert (admission._requests._value, admission._responses._value) == (16, 16)
        assert (admission.transfers.arriving, admission.transfers.unread) == ({}, {})
        assert not [task for task in asyncio.all_tasks() if "Call._run" in str(task.get_coro())]
    assert failures == []
    assert [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}] == []


async def test_random_frames_affect_no_other_caller(
    engine: EngineName, seed: int, effort: Callable[[int, int], int]
) -> None:
    """Conversations of random frames leave no traceback and little memory, and others are served."""
    if engine is not EngineName.NATIVE:
        pytest.skip("grpc.aio stops serving after a path that is not UTF-8")
    requests = {
        "session_notes.v1.SessionNotes/GetNotes": GetNotesRequest(session_id="fuzzed").SerializeToString(),
        "session_notes.v1.SessionState/GetSession": GetSessionRequest(session_id="fuzzed").SerializeToString(),
        "session_notes.v1.SessionState/AppendTurns": b"",
        "grpc.health.v1.Health/Check": b"",
        "grpc.health.v1.Health/Watch": b"",
        "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": b"",
        "a.Service/Unknown": b"",
    }
    with Sidecar() as sidecar:
        before, lines = resident_bytes(sidecar), len(sidecar.log.splitlines())
        await converse_in_threads(sidecar.target, requests, seed, effort(3, 60))
        await asyncio.to_thread(assert_serves_others, sidecar)
        assert "Traceback" not in sidecar.log
        assert len(sidecar.log.splitlines()) <= lines + 3, sidecar.log
        eventually(lambda: resident_bytes(sidecar) < before + 64 * MEBIBYTE)
