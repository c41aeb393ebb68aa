"""Hostile HTTP/2: each attack costs a bounded amount of memory, delays others little, and leaves nothing behind.

The attacks send frames by hand to a sidecar with default limits, while another process reads notes. Both engines
withstand them. The native one holds less, and ends the connection of an attacker where that is possible.
"""

import gzip
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import ngh2
import pytest
from session_notes.v1.session_notes_pb2 import GetNotesRequest
from session_notes.v1.session_state_pb2 import AppendTurnsRequest, GetSessionRequest
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.settings import EngineName

from tests.access.callers import Authority
from tests.faults.attacks import Bounds, Cost, Range
from tests.faults.bystander import Bystander
from tests.faults.frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Client,
    call,
    fields,
    frame,
    message,
    request_fields,
    reset,
    settings,
    window_update,
)
from tests.faults.measures import MEBIBYTE, descriptors
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id

GET_NOTES = "session_notes.v1.SessionNotes/GetNotes"
GET_SESSION = "session_notes.v1.SessionState/GetSession"
APPEND_TURNS = "session_notes.v1.SessionState/AppendTurns"
CHECK = "grpc.health.v1.Health/Check"
REFLECTION = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
NO_NOTES = GetNotesRequest(session_id="no-session")

MANY = 20_000
OK, RESOURCE_EXHAUSTED = 0, 8
FLOW_CONTROL_ERROR, COMPRESSION_ERROR = 3, 9
NO_WINDOW = PREFACE + settings({INITIAL_WINDOW_SIZE: 0})
LARGE_WINDOWS = PREFACE + settings({INITIAL_WINDOW_SIZE: (1 << 31) - 1}) + window_update(0, 1 << 30)

# How much each attack may cost the native engine and grpc.aio. The comments have what it cost on two idle cores.
BOUNDS = {
    "rapid_reset": (Bounds(16, 250), Bounds(400, 20000)),  # 4, 29 | 218, 2850
    "resets_within_the_limit": (Bounds(48, 1000), Bounds(400, 20000)),  # 29, 251 | 226, 4907
    "resets_by_the_sidecar": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 6 | 0, 8
    "a_reset_storm[before]": (Bounds(8, 250), Bounds(16, 2000)),  # 1, 4 | 6, 87
    "a_reset_storm[while]": (Bounds(24, 500), Bounds(48, 2000)),  # 11, 37 | 24, 57
    "a_rejected_call_that_is_reset": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 3
    "a_path_that_is_no_text": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | it stops serving
    "a_flood_of_frames[SETTINGS]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 3
    "a_flood_of_frames[PING]": (Bounds(8, 250), Bounds(16, 20000)),  # 0, 1 | 2, 2002
    "a_flood_of_frames[PRIORITY]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 3 | 0, 1
    "a_flood_of_frames[DATA]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 25 | 0, 2
    "a_flood_of_frames[unknown]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 5
    "a_flood_of_window_updates": (Bounds(8, 500), Bounds(8, 4000)),  # 0, 170 | 0, 560
    "a_window_that_overflows": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 1
    "endless_headers[0]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 4
    "endless_headers[16384]": (Bounds(8, 250), Bounds(96, 2000)),  # 0, 5 | 0, 113
    "thousands_of_headers": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 1, 1
    "large_headers": (Bounds(8, 250), Bounds(160, 4000)),  # 0, 6 | 83, 365
    "references_to_a_large_header[3]": (Bounds(32, 2000), Bounds(500, 20000)),  # 14, 633 | 278, 6192
    "references_to_a_large_header[15]": (Bounds(16, 500), Bounds(400, 20000)),  # 5, 95 | 103, 2088
    "a_large_header_table": (Bounds(8, 500), Bounds(128, 4000)),  # 1, 68 | 54, 481
    "slow_prefaces": (Bounds(16, 250), Bounds(16, 1000)),  # 5, 37 | 6, 40
    "slow_bodies": (Bounds(24, 250), Bounds(32, 1000)),  # 6, 6 | 11, 38
    "slow_requests_of_streams": (Bounds(80, 500), Bounds(160, 2000)),  # 62, 12 | 105, 79
    "requests_that_wait_for_others": (Bounds(80, 500), Bounds(120, 4000)),  # 55, 62 | 71, 624
    "data_behind_the_message[1]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 2 | 0, 1
    "data_behind_the_message[3000]": (Bounds(24, 500), Bounds(200, 4000)),  # 9, 18 | 115, 542
    "calls_without_a_message": (Bounds(96, 1500), Bounds(500, 20000)),  # 60, 231 | 275, 7268
    "half_closed_calls": (Bounds(96, 1500), Bounds(250, 5000)),  # 66, 479 | 149, 510
    "the_prefix_of_a_huge_message[4294967295]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 3
    "the_prefix_of_a_huge_message[536870912]": (Bounds(8, 250), Bounds(8, 1000)),  # 0, 1 | 0, 7
    "gzip_bombs[1]": (Bounds(16, 250), Bounds(16, 1000)),  # 9, 7 | 9, 16
    "gzip_bombs[16]": (Bounds(40, 750), Bounds(40, 2000)),  # 20, 70 | 11, 169
    "unread_responses[window]": (Bounds(48, 250), Bounds(64, 2000)),  # 20, 15 | 30, 27
    "unread_responses[socket]": (Bounds(48, 250), Bounds(64, 2000)),  # 20, 19 | 30, 60
    "unread_responses_on_many_connections": (Bounds(180, 3000), Bounds(1200, 20000)),  # 114, 964 | 853, 2108
    "small_unread_responses": (Bounds(112, 3000), Bounds(400, 20000)),  # 76, 764 | 252, 3510
    "a_caller_that_does_not_read_for_20_seconds": (Bounds(32, 250), Bounds(40, 2000)),  # 19, 20 | 21, 22
    "a_thousand_connections": (Bounds(24, 250), Bounds(32, 1000)),  # 13, 55 | 16, 38
}


@pytest.fixture(scope="module")
def attack_range() -> Iterator[tuple[str, Bystander]]:
    with StoreServer(valkey_program()) as store, Bystander() as bystander:
        yield store.url, bystander


@pytest.fixture
def attacked(
    request: pytest.FixtureRequest,
    attack_range: tuple[str, Bystander],
    engine: EngineName,
    print_progress: Callable[[str], None],
) -> Callable[..., Cost]:
    """Attack a sidecar, after a preparation, and assert that the cost is within the bounds of the test and engine."""
    name = request.node.name.removeprefix("test_")
    bounds = BOUNDS[name][engine is EngineName.GRPCIO]
    attacks = Range(*attack_range, engine, print_progress)

    def attacked(attack: Callable[..., object], prepare: Callable[[Sidecar], object] | None = None) -> Cost:
        cost = attacks.assert_withstood(name, bounds, attack, prepare)
        assert cost.failures == [] or engine is EngineName.GRPCIO
        return cost

    return attacked


def streams(count: int) -> range:
    """Return the numbers of a caller's first streams."""
    return range(1, 2 * count, 2)


def stored_notes(sidecar: Sidecar) -> GetNotesRequest:
    """Write notes, and return a request that reads them."""
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said")
        return GetNotesRequest(session_id=session.id)


def large_notes(sidecar: Sidecar) -> GetNotesRequest:
    """Write notes of 200 KB, and return a request that reads them."""
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "x" * 200_000)
        return GetNotesRequest(session_id=session.id)


def large_session(sidecar: Sidecar) -> GetSessionRequest:
    """Create a session with 2 MB of fields, and return a request that reads it."""
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        for number in range(10):
            session.update_session(set={f"field-{number}": "x" * 200_000})
        return GetSessionRequest(session_id=session.id)


# Resets


def test_rapid_reset(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """Of 20,000 calls that are reset at once, the native engine begins about 2,500 and closes the connection."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            client.send(b"".join(call(stream, GET_NOTES, NO_NOTES) + reset(stream) for stream in streams(MANY)))
            assert client.answers() is (engine is EngineName.GRPCIO)

    attacked(attack)


def test_resets_within_the_limit(attacked: Callable[..., Cost]) -> None:
    """Ten connections whose callers cancel 2,000 calls each at once, as when deadlines pass, stay open."""

    def attack(sidecar: Sidecar) -> None:
        cancelled = b"".join(call(stream, GET_NOTES, NO_NOTES) + reset(stream) for stream in streams(2_000))
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(sidecar.target)) for _ in range(10)]
            for client in clients:
                client.send(cancelled)
            assert all(client.answers() for client in clients)

    attacked(attack)


def test_resets_by_the_sidecar(attacked: Callable[..., Cost]) -> None:
    """Frames that make the sidecar reset 20,000 calls end the connection."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            client.send(
                b"".join(call(stream, GET_NOTES, NO_NOTES) + window_update(stream, 0) for stream in streams(MANY))
            )
            assert not client.answers()

    attacked(attack)


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_reset_storm(attacked: Callable[..., Cost], when: str) -> None:
    """Calls with responses of 2 MB that are reset before or while they are answered hold nothing."""

    def attack(sidecar: Sidecar, request: GetSessionRequest) -> None:
        with Client(sidecar.target, LARGE_WINDOWS) as client:
            if when == "before":
                client.send(b"".join(call(stream, GET_SESSION, request) + reset(stream) for stream in streams(400)))
                assert client.answers()
                return
            client.send(b"".join(call(stream, GET_SESSION, request) for stream in streams(40)))
            answered = set[int]()
            for received in client.frames():
                if received.kind == DATA and received.stream not in answered:
                    answered.add(received.stream)
                    following = streams(40)[-1] + 2 * len(answered)
                    client.send(reset(received.stream) + call(following, GET_SESSION, request))
                    if len(answered) == 100:
                        break

    attacked(attack, large_session)


def test_a_rejected_call_that_is_reset(attacked: Callable[..., Cost]) -> None:
    """A call of an unknown method that is reset directly after its request leaves the connection open."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            client.send(b"".join(call(stream, "no/method", NO_NOTES) + reset(stream) for stream in streams(10)))
            assert client.answers()

    attacked(attack)


def test_a_path_that_is_no_text(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """A call whose path is not UTF-8 is rejected, and the connection stays open."""
    if engine is EngineName.GRPCIO:
        pytest.skip("grpc.aio 1.85 stops serving after such a call, for good")

    def attack(sidecar: Sidecar) -> None:
        block = request_fields("no-text").replace(b"/no-text", b"/no-\xc4\xff\xc4\xff")
        with Client(sidecar.target) as client:
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
            assert client.answers()

    attacked(attack)


# Floods

FLOODS = {
    "SETTINGS": settings({INITIAL_WINDOW_SIZE: 65_535}),
    "PING": frame(PING, body=bytes(8)),
    "PRIORITY": frame(PRIORITY, 0, 1, bytes(5)),
    "DATA": frame(DATA, 0, 1),
    "unknown": frame(99),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_frames(attacked: Callable[..., Cost], engine: EngineName, kind: str) -> None:
    """20,000 frames of a kind, whose answers are not read, end a connection of the native engine."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            client.send(frame(HEADERS, END_HEADERS, 1, request_fields(APPEND_TURNS)))
            client.send(FLOODS[kind] * MANY)
            answers = client.answers()
            assert not answers or engine is EngineName.GRPCIO

    attacked(attack)


def test_a_flood_of_window_updates(attacked: Callable[..., Cost]) -> None:
    """4,000,000 window updates on 16 connections at once delay others little, although they end no connection."""

    def attack(sidecar: Sidecar) -> None:
        flood = window_update(0, 1) * 250_000
        with ExitStack() as stack, ThreadPoolExecutor(16) as pool:
            clients = [stack.enter_context(Client(sidecar.target)) for _ in range(16)]
            assert all(pool.map(lambda client: client.send(flood) and client.answers(), clients))

    attacked(attack)


def test_a_window_that_overflows(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """A window above 2^31-1 ends a connection of the native engine."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            client.send(window_update(0, (1 << 31) - 1))
            if engine is EngineName.NATIVE:
                assert client.wait_for_close() == FLOW_CONTROL_ERROR

    attacked(attack)


@pytest.mark.parametrize("size", [0, 16_384])
def test_endless_headers(attacked: Callable[..., Cost], size: int) -> None:
    """Headers that 3,000 CONTINUATION frames do not end close the connection."""

    def attack(sidecar: Sidecar) -> None:
        block = fields([("x-endless", "x" * 100)] * 200)[:size]
        with Client(sidecar.target) as client:
            client.send(frame(HEADERS, 0, 1, request_fields(GET_NOTES)))
            client.send(frame(CONTINUATION, 0, 1, block) * 3_000)
            assert not client.answers()

    attacked(attack)


# Headers


def test_thousands_of_headers(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """A call with 4,000 headers ends a connection of the native engine."""

    def attack(sidecar: Sidecar) -> None:
        block = request_fields(GET_NOTES) + fields([("a", "")] * 4_000)
        with Client(sidecar.target) as client:
            client.send(frame(HEADERS, END_HEADERS, 1, block[:16_384]))
            assert client.answers() is (engine is EngineName.GRPCIO)

    attacked(attack)


def test_large_headers(attacked: Callable[..., Cost]) -> None:
    """1,000 calls with 60 KB of metadata are rejected, and the connection stays open."""

    def attack(sidecar: Sidecar) -> None:
        block = request_fields(GET_NOTES, [("x-large", "x" * 60_000)])
        parts = [block[start : start + 16_384] for start in range(0, len(block), 16_384)]
        with Client(sidecar.target) as client:
            for stream in streams(1_000):
                client.send(frame(HEADERS, END_STREAM, stream, parts[0]))
                client.send(b"".join(frame(CONTINUATION, 0, stream, part) for part in parts[1:]))
                client.send(frame(CONTINUATION, END_HEADERS, stream))
            assert client.answers()

    attacked(attack)


@pytest.mark.parametrize("references", [3, 15])
def test_references_to_a_large_header(attacked: Callable[..., Cost], references: int) -> None:
    """20,000 calls whose compressed headers refer to one large field hold little, even if no response is read.

    They have 12 KB of metadata, which is permitted, and 60 KB, which is not, in 100 bytes.
    """

    def attack(sidecar: Sidecar) -> None:
        field = fields([("x-large", "x" * 3_900)], indexed=True)
        block = request_fields(GET_NOTES) + b"\xbe" * references
        with Client(sidecar.target, receive_buffer=4096) as client:
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, request_fields(CHECK) + field))
            for stream in streams(MANY)[1:]:
                client.send(
                    frame(HEADERS, END_HEADERS, stream, block) + frame(DATA, END_STREAM, stream, message(NO_NOTES))
                )
            time.sleep(0.5)

    attacked(attack)


def test_a_large_header_table(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """A header table larger than permitted ends the connection, and 200,000 new entries of a small one hold nothing."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            for stream in streams(2_000):
                entries = fields([(f"x-{stream}-{number}", "") for number in range(100)], indexed=True)
                client.send(frame(HEADERS, END_HEADERS, stream, request_fields(CHECK) + entries))
                client.send(frame(DATA, END_STREAM, stream, message(b"")))
            assert client.answers()
            update = b"\x3f" + b"\xff" * 3 + b"\x0f"  # To 33 MB.
            client.send(frame(HEADERS, END_HEADERS | END_STREAM, 4_001, update + request_fields(CHECK)))
            assert client.wait_for_close() == COMPRESSION_ERROR or engine is EngineName.GRPCIO

    attacked(attack)


# Slow callers


def test_slow_prefaces(attacked: Callable[..., Cost]) -> None:
    """Connections that send nothing, a preface byte by byte, or no SETTINGS are closed after 5 s."""

    def attack(sidecar: Sidecar) -> None:
        with ExitStack() as stack:
            dripping = [stack.enter_context(Client(sidecar.target, b"")) for _ in range(50)]
            silent = [stack.enter_context(Client(sidecar.target, b"")) for _ in range(300)]
            silent += [stack.enter_context(Client(sidecar.target, PREFACE)) for _ in range(50)]
            began = time.monotonic()
            for byte in (PREFACE + settings({}))[:30]:
                for client in dripping:
                    client.send(bytes([byte]))
                time.sleep(0.2)
            for client in dripping + silent:
                client.wait_for_close()
            assert time.monotonic() - began < 10

    attacked(attack)


def test_slow_bodies(attacked: Callable[..., Cost]) -> None:
    """256 requests of 4 MiB on 64 connections, of which little arrives, hold little and are rejected within seconds."""

    def attack(sidecar: Sidecar) -> None:
        begun = struct.pack(">BI", 0, 4 * MEBIBYTE - 100) + bytes(16_000)
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(sidecar.target)) for _ in range(64)]
            for client in clients:
                for stream in streams(4):
                    client.send(frame(HEADERS, END_HEADERS, stream, request_fields(APPEND_TURNS)))
                    client.send(frame(DATA, 0, stream, begun))
            for _ in range(40):
                for client in clients:
                    client.send(b"".join(frame(DATA, 0, stream, b"x") for stream in streams(4)))
                time.sleep(0.05)

    attacked(attack)


def test_slow_requests_of_streams(attacked: Callable[..., Cost]) -> None:
    """200 reflection streams, which have no deadline, hold little of their requests of 4 MiB."""

    def attack(sidecar: Sidecar) -> None:
        begun = struct.pack(">BI", 0, 4 * MEBIBYTE)
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(sidecar.target)) for _ in range(8)]
            for client in clients:
                for stream in streams(25):
                    client.send(frame(HEADERS, END_HEADERS, stream, request_fields(REFLECTION)))
                    client.send(frame(DATA, 0, stream, begun))
            threads = [threading.Thread(target=upload, args=(client, 25, 6.0)) for client in clients]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    attacked(attack)


def upload(client: Client, count: int, seconds: float) -> None:
    """Send as much of `count` requests of 4 MiB as the windows permit, except the last byte."""
    windows = dict.fromkeys(streams(count), 60_000)
    left = dict.fromkeys(streams(count), 4 * MEBIBYTE - 1)
    end = time.monotonic() + seconds
    client.socket.settimeout(0.2)
    while time.monotonic() < end:
        for stream in streams(count):
            size = min(16_384, windows[stream], left[stream])
            windows[stream] -= size
            left[stream] -= size
            if size and not client.send(frame(DATA, 0, stream, bytes(size))):
                return
        with suppress(TimeoutError):
            for received in client.frames():
                if received.kind == WINDOW_UPDATE and received.stream:
                    windows[received.stream] += int.from_bytes(received.body)
                    break


def test_requests_that_wait_for_others(attacked: Callable[..., Cost]) -> None:
    """4,000 requests on 16 connections that send 60 KB each, and wait for their turn, hold a bounded amount."""

    def attack(sidecar: Sidecar) -> None:
        begun = struct.pack(">BI", 0, 100_000) + bytes(11_000)
        with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
            clients = [stack.enter_context(Client(sidecar.target)) for _ in range(16)]
            opening = b"".join(
                frame(HEADERS, END_HEADERS, stream, request_fields(APPEND_TURNS))
                + frame(DATA, 0, stream, begun)
                + frame(DATA, 0, stream, bytes(16_000)) * 3
                for stream in streams(250)
            )
            list(pool.map(lambda client: client.send(opening), clients))
            assert clients[0].answers()

    attacked(attack)


# Messages


@pytest.mark.parametrize("calls", [1, 3_000])
def test_data_behind_the_message(attacked: Callable[..., Cost], calls: int) -> None:
    """Calls with a complete message, an unread response and more data hold little of that data."""

    def attack(sidecar: Sidecar, request: GetNotesRequest) -> None:
        with Client(sidecar.target, NO_WINDOW) as client:
            for stream in streams(calls):
                client.send(call(stream, GET_NOTES, request, flags=0))
                client.send(frame(DATA, 0, stream, bytes(16_000)) * 4)
            assert client.answers()

    attacked(attack, stored_notes)


def test_calls_without_a_message(attacked: Callable[..., Cost]) -> None:
    """Of 20,000 calls whose message does not arrive, all but a few are rejected within a second or two."""

    def attack(sidecar: Sidecar) -> None:
        with Client(sidecar.target) as client:
            client.send(
                b"".join(frame(HEADERS, END_HEADERS, stream, request_fields(GET_NOTES)) for stream in streams(MANY))
            )
            ended = 0
            for received in client.frames():
                ended += received.kind == HEADERS
                if ended == MANY - 8:
                    break
            assert client.answers()

    attacked(attack)


def test_half_closed_calls(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """With 9,000 calls that have an unread response and no end, a frame costs no more than without them."""

    def attack(sidecar: Sidecar, request: GetNotesRequest) -> None:
        with Client(sidecar.target, NO_WINDOW) as client:
            client.send(b"".join(call(stream, GET_NOTES, request, flags=0) for stream in streams(9_000)))
            for _ in range(4_000 if engine is EngineName.NATIVE else 2):
                assert client.answers()

    # Most of it is for the calls. With a look at each call after each frame, it would be 3.5 s.
    assert attacked(attack, stored_notes).cpu_seconds < 2 or engine is EngineName.GRPCIO


@pytest.mark.parametrize("size", [(1 << 32) - 1, 512 * MEBIBYTE])
def test_the_prefix_of_a_huge_message(attacked: Callable[..., Cost], size: int) -> None:
    """A message that announces 4 GiB or 512 MiB is RESOURCE_EXHAUSTED at its prefix."""

    def attack(sidecar: Sidecar) -> None:
        assert status_of(sidecar.target, struct.pack(">BI", 0, size)) == RESOURCE_EXHAUSTED

    attacked(attack)


@pytest.mark.parametrize("callers", [1, 16])
def test_gzip_bombs(attacked: Callable[..., Cost], callers: int) -> None:
    """Messages of 200 MiB that are 200 KiB on the wire are RESOURCE_EXHAUSTED, also sixteen at a time."""
    bomb = gzip.compress(bytes(200 * MEBIBYTE), 1)
    data = struct.pack(">BI", 1, len(bomb)) + bomb

    def attack(sidecar: Sidecar) -> None:
        statuses = list[int]()
        threads = [
            threading.Thread(target=lambda: statuses.append(status_of(sidecar.target, data, ended=True)))
            for _ in range(callers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [RESOURCE_EXHAUSTED] * callers

    attacked(attack)


def test_more_than_a_compressed_message(sidecar: Sidecar, session_id: str) -> None:
    """Compressed data that is cut off, or followed by more, is refused as a whole instead of read in part."""
    whole = gzip.compress(AppendTurnsRequest(session_id=session_id, turns=[Turn(text="a")]).SerializeToString())
    statuses = [
        status_of(sidecar.target, struct.pack(">BI", 1, len(data)) + data, ended=True)
        for data in (whole, whole[:-1], whole + b"a", whole * 2)
    ]
    assert statuses[0] == OK
    assert not {OK}.intersection(statuses[1:])


def status_of(target: str, data: bytes, *, ended: bool = False) -> int:
    """Begin a compressed call with this data, and return its status."""
    http2 = ngh2.Connection(ngh2.Role.CLIENT)
    http2.initiate_connection()
    pseudo = {b":method": b"POST", b":scheme": b"http", b":path": b"/" + APPEND_TURNS.encode(), b":authority": b"a"}
    headers = [*pseudo.items(), (b"content-type", b"application/grpc"), (b"te", b"trailers")]
    stream = http2.send_request([*headers, (b"grpc-encoding", b"gzip")])
    http2.send_data(stream, data, end_stream=ended)
    host, _, port = target.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as peer:
        while True:
            peer.sendall(http2.data_to_send())
            http2.receive_data(peer.recv(65_536))
            for event in http2.events():
                if isinstance(event, ngh2.ResponseReceived | ngh2.TrailersReceived):
                    headers = list(event.headers)
                    if b"grpc-status" in dict(headers):
                        return int(dict(headers)[b"grpc-status"])


# Unread responses


@pytest.mark.parametrize("how", ["window", "socket"])
def test_unread_responses(attacked: Callable[..., Cost], how: str) -> None:
    """400 responses of 2 MB that are not read, for lack of windows or from the socket, hold a bounded amount."""

    def attack(sidecar: Sidecar, request: GetSessionRequest) -> None:
        with Client(sidecar.target, NO_WINDOW if how == "window" else LARGE_WINDOWS) as client:
            client.send(b"".join(call(stream, GET_SESSION, request) for stream in streams(400)))
            time.sleep(2)

    attacked(attack, large_session)


def test_unread_responses_on_many_connections(attacked: Callable[..., Cost]) -> None:
    """3,200 responses of 200 KB that 32 connections do not read hold a bounded amount."""

    def attack(sidecar: Sidecar, request: GetNotesRequest) -> None:
        with ExitStack() as stack:
            for _ in range(32):
                client = stack.enter_context(Client(sidecar.target, LARGE_WINDOWS))
                client.send(b"".join(call(stream, GET_NOTES, request) for stream in streams(100)))
            time.sleep(2)

    attacked(attack, large_notes)


def test_small_unread_responses(attacked: Callable[..., Cost]) -> None:
    """20,000 small responses that are not read hold a bounded amount."""

    def attack(sidecar: Sidecar, request: GetNotesRequest) -> None:
        with Client(sidecar.target, receive_buffer=4096) as client:
            client.send(b"".join(call(stream, GET_NOTES, request) for stream in streams(MANY)))
            time.sleep(2)

    attacked(attack, stored_notes)


def test_a_caller_that_does_not_read_for_20_seconds(attacked: Callable[..., Cost], engine: EngineName) -> None:
    """After 20 s, grpc.aio resets calls with unread responses, and the native engine closes their connection."""

    def attack(sidecar: Sidecar, request: GetSessionRequest) -> None:
        with Client(sidecar.target, NO_WINDOW) as client:
            client.send(b"".join(call(stream, GET_SESSION, request) for stream in streams(4)))
            began = time.monotonic()
            if engine is EngineName.NATIVE:
                client.wait_for_close()
            else:
                next(received for received in client.frames() if received.kind == RST_STREAM)
            assert 19 < time.monotonic() - began < 25

    attacked(attack, large_session)


# Connections


def test_a_thousand_connections(attacked: Callable[..., Cost]) -> None:
    """A thousand connections are all served, and each holds a few kilobytes."""

    def attack(sidecar: Sidecar) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(sidecar.target)) for _ in range(1_000)]
            assert all(client.answers() for client in clients)

    attacked(attack)


def test_lost_connections_leave_their_place(tmp_path: Path) -> None:
    """At the limit on connections, each one that ends or fails, in TLS or HTTP/2, leaves its place to another one."""
    authority = Authority(tmp_path)
    pair = authority.issue("sidecar", "localhost", "127.0.0.1")
    flags = ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (150, limits[1]))  # 75 connections.
        try:
            sidecar = stack.enter_context(Sidecar(flags=flags, wait=False))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        before, lines = descriptors(sidecar), len(sidecar.log.splitlines())
        host, _, port = sidecar.target.rpartition(":")
        context = ssl.create_default_context(cafile=str(authority.path))

        def connect(protocols: list[str]) -> socket.socket:
            context.set_alpn_protocols(protocols)
            plain = socket.create_connection((host, int(port)), timeout=20)
            return context.wrap_socket(plain, server_hostname="localhost")

        for opening in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n", PREFACE):
            for _ in range(75):
                with suppress(OSError), socket.create_connection((host, int(port)), timeout=20) as peer:
                    peer.sendall(opening)
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", len(opening) % 2, 0))
        eventually(lambda: descriptors(sidecar) <= before, 20)
        for protocols, opening in (
            (["http/1.1"], b""),
            (["h2"], b"GET / HTTP/1.1\r\n\r\n"),
            (["h2"], PREFACE + bytes(99)),
        ):
            for _ in range(40):
                with suppress(OSError), connect(protocols) as peer:
                    peer.sendall(opening)
                    peer.recv(4096)
        eventually(lambda: descriptors(sidecar) <= before, 20)
        for _ in range(75):
            peer = stack.enter_context(connect(["h2"]))
            peer.sendall(PREFACE + settings({}) + frame(PING, body=b"answered"))
            received = b""
            while b"answered" not in received:
                data = peer.recv(4096)
                assert data, "a connection below the limit is closed"
                received += data
        with socket.create_connection((host, int(port)), timeout=20) as peer, suppress(ConnectionError):
            peer.sendall(b"\x16")
            assert peer.recv(1) == b""
        assert "Traceback" not in sidecar.log
        assert len(sidecar.log.splitlines()) <= lines + 3, sidecar.log


def test_the_native_engine_costs_less() -> None:
    """No attack may cost the native engine more memory or waiting than grpc.aio."""
    for name, (native, grpcio) in BOUNDS.items():
        assert native.mib <= grpcio.mib, name
        assert native.milliseconds <= grpcio.milliseconds, name
