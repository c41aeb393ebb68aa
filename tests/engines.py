"""Engines in the event loop of a test, with handlers of the test, and a caller without the features of gRPC clients."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import ngh2
from session_notes_server.identity.callers import Certificates
from session_notes_server.rpc.engines import Engine, open_engine
from session_notes_server.settings import EngineName, Settings

SERVICE = "a.Service"


def service(**methods: Any) -> grpc.GenericRpcHandler:
    """Return the handler of a service with these methods."""
    return grpc.method_handlers_generic_handler(SERVICE, methods)


@asynccontextmanager
async def run_engine(
    name: EngineName,
    handlers: Callable[[Engine], Iterable[grpc.GenericRpcHandler]],
    certificates: Certificates | None = None,
) -> AsyncIterator[tuple[str, Engine]]:
    """Run an engine with handlers on a free port, and yield its address and the engine."""
    engine = open_engine(Settings(engine=name), certificates)
    engine.add_generic_rpc_handlers(handlers(engine))
    try:
        with engine.listening("127.0.0.1:0") as target:
            await engine.start()
            yield target, engine
    finally:
        await engine.stop(0)


@dataclass
class Response:
    """The response to a call, as far as it has arrived."""

    headers: dict[str, str] = field(default_factory=dict)
    """Headers and trailers."""
    body: bytearray = field(default_factory=bytearray)
    error_code: int | None = None
    """HTTP/2's error code, once the call has ended."""


class PlainCaller:
    """A caller that speaks only HTTP/2: it enforces no deadline, and reads only when it is told to.

    Args:
        target: The address to connect to.
        window: How many bytes of each response it accepts at first.
        tls: The context of TLS. None: no TLS.
    """

    def __init__(self, target: str, *, window: int = 65_535, tls: ssl.SSLContext | None = None) -> None:
        self._target = target
        self._tls = tls
        self._window = window
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._responses: dict[int, Response] = {}
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    async def __aenter__(self) -> Self:
        host, _, port = self._target.rpartition(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port), ssl=self._tls)
        self._http2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: self._window})
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    def call(
        self, method: str, headers: Mapping[str, str] | None = None, *, body: bytes = bytes(5), ended: bool = True
    ) -> int:
        """Call a method, by default with an empty message, and return the number of the call."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{SERVICE}/{method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        } | dict(headers or {})
        call = self._http2.send_request([(name.encode(), text.encode()) for name, text in fields.items()])
        self._http2.send_data(call, body, end_stream=ended)
        self._writer.write(self._http2.data_to_send())
        self._responses[call] = Response()
        return call

    def accept(self, window: int) -> None:
        """Set how many bytes of each response it accepts from now on."""
        self._http2.update_settings({ngh2.Setting.INITIAL_WINDOW_SIZE: window})
        self._http2.set_local_window_size(2**31 - 1)
        self._writer.write(self._http2.data_to_send())

    async def closed(self) -> None:
        """Read until the connection is closed, and answer nothing."""
        with suppress(ConnectionError):
            while await self._reader.read(65536):
                pass

    async def response(self, call: int) -> Response:
        """Read until a call has ended."""
        response = self._responses[call]
        while response.error_code is None:
            data = await self._reader.read(65536)
            assert data, "the connection was closed"
            self._http2.receive_data(data)
            for event in self._http2.events():
                self._handle(event)
            self._writer.write(self._http2.data_to_send())
        return response

    def _handle(self, event: ngh2.Event) -> None:
        if isinstance(event, ngh2.ResponseReceived | ngh2.TrailersReceived):
            headers = {name.decode(): text.decode() for name, text in event.headers}
            self._responses[event.stream_id].headers |= headers
        elif isinstance(event, ngh2.DataReceived):
            self._responses[event.stream_id].body += event.data
        elif isinstance(event, ngh2.StreamClosed):
            self._responses[event.stream_id].error_code = event.error_code
