"""Peers of a client: servers that reject or forward calls, one of the first version, a proxy that loses replies."""

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from session_notes.v1.session_notes_pb2 import BeginRunRequest

FIRST_CONTRACT = FileDescriptorSet.FromString((Path(__file__).parent / "first_version.binpb").read_bytes())
"""The files of the contract's first version, as a sidecar of that version describes them."""


class RejectingServer:
    """A gRPC server that responds to every call with one status, for statuses that a sidecar does not send today."""

    def __init__(self) -> None:
        self.code = grpc.StatusCode.INTERNAL
        self.message = ""
        self.details: bytes | None = None
        self.answers = 1_000_000
        """Number of calls that get a response. Later calls hang."""
        self.requests: list[bytes] = []
        self.cancelled = threading.Event()
        """Set once a caller has cancelled a call that hangs."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _handler(self) -> grpc.GenericRpcHandler:
        rejecting = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, _: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
                return grpc.unary_unary_rpc_method_handler(rejecting._reject)

        return Handler()

    def _reject(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.requests.append(request)
        if len(self.requests) > self.answers:
            # Until the caller cancels the call.
            context.add_callback(self.cancelled.set)
            self.cancelled.wait(10)
        if self.details is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", self.details),))
        context.abort(self.code, self.message)

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop(0).wait()


class Forwarder:
    """A server that forwards every call to a sidecar.

    Args:
        target: Address of the sidecar.
        before: Called with the name of a method before each call.
    """

    def __init__(self, target: str, before: Callable[[str], object] = lambda _: None) -> None:
        self.methods: list[str] = []
        """The methods called, by name."""
        self._before = before
        self._sidecar = grpc.insecure_channel(target)
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._handler(),))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def _handler(self) -> grpc.GenericRpcHandler:
        forwarder = self

        class Handler(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
                path = details.method
                return grpc.unary_unary_rpc_method_handler(
                    lambda request, context: forwarder._forward(path, request, context)
                )

        return Handler()

    def _forward(self, path: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        name = path.rpartition("/")[2]
        self.methods.append(name)
        self._before(name)
        try:
            call: Any = self._sidecar.unary_unary(path)
            response: bytes = call(request, timeout=10)
        except grpc.RpcError as refusal:
            error: Any = refusal
            context.set_trailing_metadata(error.trailing_metadata())
            context.abort(error.code(), error.details())
        return response

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop(0).wait()
        self._sidecar.close()


class FirstVersion(Forwarder):
    """A sidecar of the contract's first version: it forwards the methods and fields that this version has."""

    def __init__(self, target: str) -> None:
        self.begins: list[BeginRunRequest] = []
        """The requests of BeginRun."""
        self._pool = DescriptorPool()
        for file in FIRST_CONTRACT.file:
            self._pool.Add(file)
        super().__init__(target)

    def _forward(self, path: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        service, _, name = path.removeprefix("/").rpartition("/")
        if name == "BeginRun":
            self.begins.append(BeginRunRequest.FromString(request))
        method = self._pool.FindServiceByName(service).methods_by_name.get(name)
        if method is None:
            self.methods.append(name)
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "the method does not exist")
        return _known(method.output_type, super()._forward(path, _known(method.input_type, request), context))


def _known(descriptor: Any, data: bytes) -> bytes:
    """Return a message without the fields that its descriptor does not have."""
    message = GetMessageClass(descriptor).FromString(data)
    message.DiscardUnknownFields()
    known: bytes = message.SerializeToString()
    return known


class Proxy:
    """A proxy between client and sidecar that can hold or drop replies."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._to = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.connections = 0
        self._dropping = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: list[socket.socket] = []
        self._lost = set[socket.socket]()
        threading.Thread(target=self._accept, daemon=True).start()

    def drop_replies(self) -> None:
        """Drop replies from now on. Requests still arrive."""
        self._dropping.set()

    def hold_replies(self) -> None:
        """Hold replies from now on. Requests still arrive."""
        self._flowing.clear()

    def release_replies(self) -> None:
        """Deliver the held replies and all later ones."""
        self._flowing.set()

    def lose_connections(self) -> None:
        """Pass nothing more on the open connections, and close none, like a network that has lost them."""
        self._lost.update(self._open)

    def reset(self) -> None:
        """Break all connections, and pass everything on later ones."""
        self._break()
        self._dropping.clear()
        self._flowing.set()

    def close(self) -> None:
        """Stop the proxy."""
        self._server.close()
        self._flowing.set()
        self._break()

    def _break(self) -> None:
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

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
                if source not in self._lost and not (replies and self._dropping.is_set()):
                    sink.sendall(content)
        if source in self._lost:
            return
        for connection in (source, sink):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        source.close()
