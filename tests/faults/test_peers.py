"""Hostile and broken peers (silence, endless streams, compression bombs) do not affect others or grow memory."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes.v1.session_notes_pb2 import WriteNotesRequest
from session_notes_server.settings import EngineName

from tests.faults.measures import MEBIBYTE, assert_serves_others, descriptors, peak_bytes
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, refused, status_of


@pytest.fixture(scope="module")
def target() -> Iterator[Sidecar]:
    """A sidecar with its default limits."""
    with Sidecar(flags=("--notes-timeout", "80ms", "--store-timeout", "1s")) as sidecar:
        yield sidecar


def test_silent_connections_do_not_affect_others(target: Sidecar) -> None:
    """With 500 silent connections others are served, and all descriptors are released afterwards."""
    host, _, port = target.target.rpartition(":")
    before = descriptors(target)
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        eventually(lambda: descriptors(target) >= before + 400, 20)
        assert_serves_others(target)
    eventually(lambda: descriptors(target) <= before + 20, 30)


def test_no_descriptors_left(target: Sidecar) -> None:
    """Without descriptors for new connections, existing clients are served, and after the flood all clients are."""
    assert target.process is not None
    pid, (soft, hard) = target.process.pid, resource.prlimit(target.process.pid, resource.RLIMIT_NOFILE)
    host, _, port = target.target.rpartition(":")
    with new_channel(target.target) as channel, ExitStack() as flood:
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said")
        session.get_notes()
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (descriptors(target) + 10, hard))
        try:
            for _ in range(100):
                flood.enter_context(socket.create_connection((host, int(port)), timeout=10))
            for _ in range(20):
                assert session.get_notes().notes.summary == "said"
        finally:
            flood.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        eventually(lambda: target.health() == health_pb2.HealthCheckResponse.SERVING)
    assert_serves_others(target)
    assert "Traceback" not in target.log


def test_health_watches_do_not_affect_others(target: Sidecar) -> None:
    """Each of 100 health Watches on one connection gets SERVING, and other clients are served."""
    with new_channel(target.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(100)]
        try:
            assert all(next(watch).status == health_pb2.HealthCheckResponse.SERVING for watch in watches)
            assert_serves_others(target)
        finally:
            for watch in watches:
                watch.cancel()


def test_a_compression_bomb_does_not_grow_memory(target: Sidecar) -> None:
    """A request of 200 MiB that is 200 KiB on the wire is RESOURCE_EXHAUSTED and takes less than 64 MiB of memory."""
    assert_serves_others(target)
    before = peak_bytes(target)
    with new_channel(target.target) as channel:
        method: Any = channel.unary_unary("/session_notes.v1.SessionNotes/WriteNotes")
        bomb = bytes(200 * MEBIBYTE)
        status = status_of(lambda: method(bomb, timeout=60, compression=grpc.Compression.Gzip))
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert peak_bytes(target) - before < 64 * MEBIBYTE
    assert_serves_others(target)


@pytest.mark.parametrize(
    ("method", "limit"),
    [("session_notes.v1.SessionState/AppendTurns", 4 * MEBIBYTE), ("grpc.health.v1.Health/Check", 1024)],
)
@pytest.mark.parametrize(
    ("size", "reason"),
    [(4 * MEBIBYTE + 1, "TOO_LARGE"), (8 * MEBIBYTE, "TOO_LARGE"), (8 * MEBIBYTE + 1, ""), (20 * MEBIBYTE, "")],
)
def test_a_message_above_the_limit(
    target: Sidecar, method: str, limit: int, size: int, reason: str, engine: EngineName
) -> None:
    """A message above 4 MiB, or 1 KiB for health, is TOO_LARGE. Above 8 MiB, grpc.aio rejects it without details."""
    if engine is EngineName.NATIVE:
        reason = "TOO_LARGE"
    with new_channel(target.target) as channel:
        call: Any = channel.unary_unary(f"/{method}")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as error:
            call(bytes(size), timeout=30)
        assert (error.reason, error.metadata.get("limit", "")) == (reason, str(limit) if reason else "")
    assert_serves_others(target)


def test_metadata_above_the_limit(target: Sidecar) -> None:
    """17 KB of metadata is RESOURCE_EXHAUSTED, stores nothing, and leaves the connection usable."""
    with new_channel(target.target) as channel:
        session = SessionCalls(channel, new_session_id())
        request = WriteNotesRequest(session_id=session.id, run_id="run-1", notes=notes())
        metadata = (("x-more", "m" * 17_000),)
        status = status_of(lambda: session.notes.WriteNotes(request, timeout=10, metadata=metadata))
        assert status == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert session.get_notes().ready is False


def test_other_protocols_end_the_connection(target: Sidecar) -> None:
    """HTTP/1, TLS and noise end the connection, others are served, and the log quotes nothing of them."""
    host, _, port = target.target.rpartition(":")
    for opening in (b"GET / HTTP/1.1\r\nhost: canary-9d3\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"\xff" * 4096):
        with socket.create_connection((host, int(port)), timeout=20) as peer:
            peer.sendall(opening)
            peer.shutdown(socket.SHUT_WR)
            try:
                while peer.recv(4096):
                    pass
            except ConnectionResetError:
                pass
    assert_serves_others(target)
    assert "canary-9d3" not in target.log
    assert "Traceback" not in target.log
