"""Clients on a real sidecar, and the company they have to live with: silent peers, and replies that get lost."""

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from session_notes import AsyncObserverClient, AsyncPrimaryClient, ObserverClient, PrimaryClient

from tests.support import Sidecar, free_port


@pytest.fixture
def primary(sidecar: Sidecar) -> Iterator[PrimaryClient]:
    """A primary on the shared sidecar."""
    with PrimaryClient(sidecar.target) as primary:
        yield primary


@pytest.fixture
def observer(sidecar: Sidecar) -> Iterator[ObserverClient]:
    """An observer on the shared sidecar."""
    with ObserverClient(sidecar.target) as observer:
        yield observer


@pytest.fixture
async def async_primary(sidecar: Sidecar) -> AsyncIterator[AsyncPrimaryClient]:
    """A primary of this test's loop, on the shared sidecar."""
    async with AsyncPrimaryClient(sidecar.target) as primary:
        yield primary


@pytest.fixture
async def async_observer(sidecar: Sidecar) -> AsyncIterator[AsyncObserverClient]:
    """An observer of this test's loop, on the shared sidecar."""
    async with AsyncObserverClient(sidecar.target) as observer:
        yield observer


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


class Refusing:
    """A gRPC server that answers every call with one status: for what a sidecar of ours does not say today."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.INTERNAL
        self.message = ""
        self.details: bytes | None = None
        self.answers = 1_000_000
        """How many calls it answers, and then no more."""
        self.requests: list[bytes] = []
        self.given_up = threading.Event()
        """Set once a caller has given up a call that gets no answer."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _handler(self) -> grpc.GenericRpcHandler:
        refusing = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
                return grpc.unary_unary_rpc_method_handler(refusing._refuse)

        return Handler()

    def _refuse(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.append(request)
        if len(self.requests) > self.answers:
            # Until the caller has had enough.
            context.add_callback(self.given_up.set)
            self.given_up.wait(10)
        if self.details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
        context.abort(self.code, self.message)

    def stop(self) -> None:
        """Ends it."""
        self._server.stop(0).wait()


@pytest.fixture
def refusing() -> Iterator[Refusing]:
    """A server that refuses everything, as told."""
    server = Refusing()
    yield server
    server.stop()


@pytest.fixture
def coming_back_later(refusing: Refusing) -> Refusing:
    """A server that is away, and says to come back in a minute."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=60)))
    refusing.code, refusing.details = grpc.StatusCode.UNAVAILABLE, status.SerializeToString()
    return refusing


class Proxy:
    """Stands between client and sidecar, passes everything on, and can keep replies to itself."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._to = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        self._swallowing = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def swallow_replies(self) -> None:
        """From now on requests arrive and replies do not."""
        self._swallowing.set()

    def hold_replies(self) -> None:
        """From now on requests arrive, and replies wait."""
        self._flowing.clear()

    def release_replies(self) -> None:
        """Replies that wait arrive, and so do later ones."""
        self._flowing.set()

    def reset(self) -> None:
        """Breaks all connections; later ones work."""
        self._break()
        self._swallowing.clear()
        self._flowing.set()

    def close(self) -> None:
        """Ends it."""
        self._server.close()
        self._flowing.set()
        self._break()

    def _break(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection(self._to)
                self.connections += 1
                self._open += [client, server]
                for pair, replies in (((client, server), False), ((server, client), True)):
                    threading.Thread(target=self._pass, args=(*pair, replies), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while content := source.recv(65536):
                if replies:
                    self._flowing.wait()
                if not (replies and self._swallowing.is_set()):
                    sink.sendall(content)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        source.close()


@pytest.fixture
def proxy(sidecar: Sidecar) -> Iterator[Proxy]:
    """A proxy in front of the shared sidecar."""
    proxy = Proxy(sidecar.target)
    yield proxy
    proxy.close()
