"""channelz, the engine's view of its connections: off by default, and only for the role admin."""

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.access.callers import TOKENS, bearer, token_files
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, refused
from tests.worker_processes import channel_per_worker, sidecar_with_workers

SERVICE = "grpc.channelz.v1.Channelz"
FLAG = "--channelz"


def calls_started(channel: grpc.Channel, token: str | None = None) -> int:
    """Return how many calls the answering process has started, according to channelz."""
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    response = stub.GetServers(channelz_pb2.GetServersRequest(), metadata=bearer(token), timeout=10)
    return sum(server.data.calls_started for server in response.server)


@pytest.fixture(scope="module")
def unauthenticated() -> Iterator[Sidecar]:
    """A sidecar with channelz and without authentication."""
    with Sidecar(flags=[FLAG]) as sidecar:
        yield sidecar


def test_connections_and_calls_can_be_listed(unauthenticated: Sidecar) -> None:
    """channelz lists servers, their sockets and their calls, and reflection describes the service."""
    with new_channel(unauthenticated.target) as channel:
        before = calls_started(channel)
        for _ in range(5):
            SessionCalls(channel, new_session_id()).get_notes()
        assert calls_started(channel) == before + 6
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        (server,) = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=10).server
        request = channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id)
        sockets = stub.GetServerSockets(request, timeout=10).socket_ref
        requests = [channelz_pb2.GetSocketRequest(socket_id=reference.socket_id) for reference in sockets]
        responses = [stub.GetSocket(request, timeout=10) for request in requests]
        assert any(response.socket.data.streams_started > 5 for response in responses)
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        assert DescriptorPool(database).FindServiceByName(SERVICE).methods


def test_an_unknown_id_is_invalid(unauthenticated: Sidecar) -> None:
    """An unknown id is INVALID_ARGUMENT with a fixed message, not the text of an exception."""
    with new_channel(unauthenticated.target) as channel:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
            channelz_pb2_grpc.ChannelzStub(channel).GetSocket(
                channelz_pb2.GetSocketRequest(socket_id=10**9), timeout=10
            )
        assert error.message == "socket_id does not exist in this process"
        assert "error" not in unauthenticated.log.lower()


def test_channelz_is_off_by_default(sidecar: Sidecar) -> None:
    """Without the flag, the service does not exist."""
    with new_channel(sidecar.target) as channel, refused(grpc.StatusCode.UNIMPLEMENTED):
        calls_started(channel)


def test_channelz_requires_the_role_admin(tmp_path: Path) -> None:
    """With authentication, only the role admin may call channelz."""
    with (
        Sidecar(flags=[FLAG, "--tokens-dir", str(token_files(tmp_path / "tokens"))]) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        assert calls_started(channel, TOKENS["admin"]) > 0
        for role in ("primary", "observer"):
            with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
                calls_started(channel, TOKENS[role])


def test_channelz_requires_a_token_for_all_sessions(tmp_path: Path) -> None:
    """A token for some sessions may not call channelz, which describes the connections of all callers."""
    directory = token_files(tmp_path / "tokens", {"admin": f"{TOKENS['admin']} prefix=acme."})
    with (
        Sidecar(flags=[FLAG, "--tokens-dir", str(directory)]) as sidecar,
        new_channel(sidecar.target) as channel,
        refused(grpc.StatusCode.PERMISSION_DENIED, "SESSION_NOT_ALLOWED"),
    ):
        calls_started(channel, TOKENS["admin"])
        with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            calls_started(channel)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux distributes a port's connections")
def test_each_worker_reports_its_own_calls() -> None:
    """With several workers, the worker with the connection responds, and reports only its own calls."""
    with sidecar_with_workers(flags=[FLAG]) as sidecar, channel_per_worker(sidecar) as channels:
        first, second = channels.values()
        before = calls_started(first), calls_started(second)
        for _ in range(4):
            SessionCalls(first, new_session_id()).get_notes()
        assert (calls_started(first), calls_started(second)) == (before[0] + 5, before[1] + 1)
