"""Hostile and broken peers: silence, streams that never end, bombs. Others are unaffected, memory stays flat."""

import resource
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from session_notes.v1.session_notes_pb2 import WriteNotesRequest

from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, refused, status_of

MEDIAN_SECONDS, WORST_SECONDS = 0.100, 0.500
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def target() -> Iterator[Sidecar]:
    """A sidecar of our own, with its default limits."""
    with Sidecar(flags=("--notes-timeout", "80ms", "--store-timeout", "1s")) as sidecar:
        yield sidecar


def memory(sidecar: Sidecar) -> int:
    """How many bytes of memory the sidecar has had at most."""
    assert sidecar.process is not None
    status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def descriptors(sidecar: Sidecar) -> int:
    """How many files and sockets it has open."""
    assert sidecar.process is not None
    return len(list(Path(f"/proc/{sidecar.process.pid}/fd").iterdir()))


def others_are_well(sidecar: Sidecar) -> None:
    """A new caller connects, writes, and reads in time."""
    with new_channel(sidecar.target) as channel:
        session = SessionCalls(channel, new_session_id())
        assert session.write_notes("run-1", "said").run.number == 1
        taken = []
        for _ in range(20):
            began = time.perf_counter()
            assert session.get_notes().notes.summary == "said"
            taken.append(time.perf_counter() - began)
        assert statistics.median(taken) <= MEDIAN_SECONDS, sorted(taken)
        assert max(taken) <= WORST_SECONDS, sorted(taken)
    assert sidecar.health() == health_pb2.HealthCheckResponse.SERVING


def test_silent_connections_are_nobodys_trouble(target: Sidecar) -> None:
    """500 connections that never say a word: others are served, and all descriptors come back afterwards."""
    host, _, port = target.target.rpartition(":")
    before = descriptors(target)
    with ExitStack() as stack:
        for _ in range(500):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        eventually(lambda: descriptors(target) >= before + 400, 20)
        others_are_well(target)
    eventually(lambda: descriptors(target) <= before + 20, 30)


def test_no_descriptors_left(target: Sidecar) -> None:
    """No descriptor is left for new connections: who is connected is served on, and after the flood all are again."""
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
    others_are_well(target)
    assert "Traceback" not in target.log


def test_health_watches_are_nobodys_trouble(target: Sidecar) -> None:
    """100 health Watches on one connection: each hears SERVING, others are served."""
    with new_channel(target.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(100)]
        try:
            assert all(next(watch).status == health_pb2.HealthCheckResponse.SERVING for watch in watches)
            others_are_well(target)
        finally:
            for watch in watches:
                watch.cancel()


def test_a_bomb_leaves_memory_flat(target: Sidecar) -> None:
    """A request of 200 MiB that is 200 KiB on the wire: RESOURCE_EXHAUSTED, and not even 64 MiB more memory."""
    others_are_well(target)
    before = memory(target)
    with new_channel(target.target) as channel:
        method: Any = channel.unary_unary("/session_notes.v1.SessionNotes/WriteNotes")
        bomb = bytes(200 * MEBIBYTE)
        end = status_of(lambda: method(bomb, timeout=60, compression=grpc.Compression.Gzip))
        assert end == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert memory(target) - before < 64 * MEBIBYTE
    others_are_well(target)


@pytest.mark.parametrize(
    ("method", "limit"),
    [("session_notes.v1.SessionState/AppendTurns", 4 * MEBIBYTE), ("grpc.health.v1.Health/Check", 1024)],
)
@pytest.mark.parametrize(
    ("size", "reason"),
    [(4 * MEBIBYTE + 1, "TOO_LARGE"), (8 * MEBIBYTE, "TOO_LARGE"), (8 * MEBIBYTE + 1, ""), (20 * MEBIBYTE, "")],
)
def test_a_message_beyond_the_limit(target: Sidecar, method: str, limit: int, size: int, reason: str) -> None:
    """More than 4 MiB in a message, 1 KiB in one of health: RESOURCE_EXHAUSTED, whatever it holds; up to 8 MiB with the
    limit."""
    with new_channel(target.target) as channel:
        call: Any = channel.unary_unary(f"/{method}")
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as error:
            call(bytes(size), timeout=30)
        assert (error.reason, error.metadata.get("limit", "")) == (reason, str(limit) if reason else "")
    others_are_well(target)


def test_metadata_beyond_the_limit(target: Sidecar) -> None:
    """17 KB of metadata: RESOURCE_EXHAUSTED; nothing is stored, and the connection goes on."""
    with new_channel(target.target) as channel:
        session = SessionCalls(channel, new_session_id())
        request = WriteNotesRequest(session_id=session.id, run_id="run-1", notes=notes())
        metadata = (("x-more", "m" * 17_000),)
        end = status_of(lambda: session.notes.WriteNotes(request, timeout=10, metadata=metadata))
        assert end == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert session.get_notes().ready is False


def test_what_is_no_http2(target: Sidecar) -> None:
    """HTTP/1, TLS and noise on the port: the connection ends, others are served, nothing of it is logged."""
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
    others_are_well(target)
    assert "canary-9d3" not in target.log
    assert "Traceback" not in target.log
