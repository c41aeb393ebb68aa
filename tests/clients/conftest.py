"""Fixtures for the clients: a real sidecar, peers that never respond, and a proxy that loses replies."""

import socket
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from session_notes import AsyncObserverClient, AsyncPrimaryClient, ObserverClient, PrimaryClient

from tests.peers import FirstVersion, Proxy, RejectingServer
from tests.support import Sidecar, free_port


@pytest.fixture
def primary(sidecar: Sidecar) -> Iterator[PrimaryClient]:
    """A primary client of the shared sidecar."""
    with PrimaryClient(sidecar.target) as primary:
        yield primary


@pytest.fixture
def observer(sidecar: Sidecar) -> Iterator[ObserverClient]:
    """An observer client of the shared sidecar."""
    with ObserverClient(sidecar.target) as observer:
        yield observer


@pytest.fixture
async def async_primary(sidecar: Sidecar) -> AsyncIterator[AsyncPrimaryClient]:
    """An asyncio primary client of the shared sidecar, in this test's event loop."""
    async with AsyncPrimaryClient(sidecar.target) as primary:
        yield primary


@pytest.fixture
async def async_observer(sidecar: Sidecar) -> AsyncIterator[AsyncObserverClient]:
    """An asyncio observer client of the shared sidecar, in this test's event loop."""
    async with AsyncObserverClient(sidecar.target) as observer:
        yield observer


@pytest.fixture
def unreachable() -> str:
    """An address on which nothing listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def rejecting() -> Iterator[RejectingServer]:
    """A server that rejects every call with the status that the test sets."""
    server = RejectingServer()
    yield server
    server.stop()


@pytest.fixture
def retry_later(rejecting: RejectingServer) -> RejectingServer:
    """A server that is unavailable and asks callers to retry in a minute."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60)))
    rejecting.code, rejecting.details = grpc.StatusCode.UNAVAILABLE, status.SerializeToString()
    return rejecting


@pytest.fixture
def proxy(sidecar: Sidecar) -> Iterator[Proxy]:
    """A proxy in front of the shared sidecar."""
    proxy = Proxy(sidecar.target)
    yield proxy
    proxy.close()


@pytest.fixture
def first_version(sidecar: Sidecar) -> Iterator[FirstVersion]:
    """A sidecar of the contract's first version, with the data of the shared sidecar."""
    first = FirstVersion(sidecar.target)
    yield first
    first.stop()
