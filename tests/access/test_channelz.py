"""channelz, gRPC's view of its own connections, is there where it was asked for, and for the role admin alone."""

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
ON = "--channelz"


def calls_started(channel: grpc.Channel, token: str | None = None) -> int:
    """How many calls the process that answers has ever taken, as channelz says."""
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    answer = stub.GetServers(channelz_pb2.GetServersRequest(), metadata=bearer(token), timeout=10)
    return sum(server.data.calls_started for server in answer.server)


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Sidecar]:
    """A sidecar that answers channelz, and asks nobody who they are."""
    with Sidecar(flags=[ON]) as sidecar:
        yield sidecar


def test_it_tells_of_connections_and_calls(open_to_all: Sidecar) -> None:
    """Servers, their sockets and their calls can be asked for; reflection knows the service."""
    with new_channel(open_to_all.target) as channel:
        before = calls_started(channel)
        for _ in range(5):
            SessionCalls(channel, new_session_id()).get_notes()
        assert calls_started(channel) == before + 6
        stub = channelz_pb2_grpc.ChannelzStub(channel)
        (server,) = stub.GetServers(channelz_pb2.GetServersRequest(), timeout=10).server
        request = channelz_pb2.GetServerSocketsRequest(server_id=server.ref.server_id)
        sockets = stub.GetServerSockets(request, timeout=10).socket_ref
        told = [stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=one.socket_id), timeout=10) for one in sockets]
        assert any(one.socket.data.streams_started > 5 for one in told)
        database = ProtoReflectionDescriptorDatabase(channel)
        assert SERVICE in database.get_services()
        assert DescriptorPool(database).FindServiceByName(SERVICE).methods


def test_what_is_not_there_is_said_in_our_words(open_to_all: Sidecar) -> None:
    """An id that names nothing is an error with a fixed text, not that of an exception."""
    with new_channel(open_to_all.target) as channel:
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
            channelz_pb2_grpc.ChannelzStub(channel).GetSocket(
                channelz_pb2.GetSocketRequest(socket_id=10**9), timeout=10
            )
        assert error.message == "socket_id does not exist in this process"
        assert "error" not in open_to_all.log.lower()


def test_it_is_off_by_default(sidecar: Sidecar) -> None:
    """Nobody is told who is connected unless the operator wants that."""
    with new_channel(sidecar.target) as channel, refused(grpc.StatusCode.UNIMPLEMENTED):
        calls_started(channel)


def test_it_is_for_admins(tmp_path: Path) -> None:
    """Where callers have roles, it is for the role admin alone."""
    with (
        Sidecar(flags=[ON, "--tokens-dir", str(token_files(tmp_path / "tokens"))]) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        assert calls_started(channel, TOKENS["admin"]) > 0
        for role in ("primary", "observer"):
            with refused(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED"):
                calls_started(channel, TOKENS[role])
        with refused(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED"):
            calls_started(channel)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port's connections")
def test_each_worker_tells_of_itself() -> None:
    """With several workers, the one that has the connection answers, of its own calls alone."""
    with sidecar_with_workers(flags=[ON]) as sidecar, channel_per_worker(sidecar) as each:
        one, two = each.values()
        before = calls_started(one), calls_started(two)
        for _ in range(4):
            SessionCalls(one, new_session_id()).get_notes()
        assert (calls_started(one), calls_started(two)) == (before[0] + 5, before[1] + 1)
