"""One HTTP/2 connection: bytes in, calls begun and ended, and one write per turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, cast

import grpc
import ngh2
from ngh2 import NGH2Error

from session_notes_server.rpc.connections import AGE_GRACE_SECONDS, HANDSHAKE_SECONDS, METADATA_BYTES
from session_notes_server.rpc.engines.native import wire
from session_notes_server.rpc.engines.native.call import Call
from session_notes_server.rpc.transfers import RESPONSE_SECONDS

if TYPE_CHECKING:
    from session_notes_server.rpc.engines.native.server import NativeEngine

CONFIGURATION = ngh2.Configuration(
    # Bytes are acknowledged when a handler reads them; see `request`.
    auto_window_update=False,
    # Clients whose deadlines pass reset calls, hundreds at a time. Beyond this rate, resets are an attack.
    stream_reset_rate_limit=(2_500, 1_000),
    # Larger headers end the connection. Those above METADATA_BYTES are answered with a status.
    max_inbound_header_list_size=4 * METADATA_BYTES,
    max_inbound_header_count=1024,
)

CONNECTION_WINDOW_BYTES = 2**31 - 1
"""Each stream has a window of 64 KiB. A window for the whole connection would let one stream delay the others, so it is
unlimited. `may_wait` bounds the bytes of all streams instead."""

READ_BYTES, PART_BYTES = 64 * 1024, 16 * 1024
"""Bytes read from a connection in one turn of the event loop, so that a flood on one delays the others by milliseconds,
and bytes parsed at a time. Compressed headers may be a thousand times larger once parsed."""

_buffer = memoryview(bytearray(READ_BYTES))  # Bytes are parsed as soon as they are read, so connections can share it.

PIECE_BYTES = 64 * 1024
"""Bytes passed to the transport at a time. It buffers at most about this many that the caller does not read."""

IDLE_SECONDS, PONG_SECONDS = 60.0, 20.0
"""A silent caller is pinged after IDLE_SECONDS, and its connection closed if it does not answer within PONG_SECONDS."""

UNREAD_SECONDS = 0.25
"""Interval of the checks whether callers have read the responses of half-closed streams."""

GOAWAY_SECONDS, EOF_SECONDS, CLOSE_SECONDS = 1.0, 1.0, 20.0
"""Time for the caller to confirm that it knows of a GOAWAY, to end its side of the connection once this side has ended,
and to read what was sent before."""


class Connection(asyncio.BufferedProtocol):
    """A connection, from its acceptance to its end.

    Args:
        engine: Its engine.
        on_lost: Called when the connection is lost.

    Attributes:
        engine: Its engine.
        loop: The event loop.
        http2: The state of HTTP/2. Except in `acknowledge`, its methods fail only after the connection has, when all
            calls are closed.
        address: The caller's socket address.
        calls: The calls in flight, by stream.
        started: The number of calls so far.
        succeeded: The number of calls that ended with OK.
        waiting_bytes: The bytes of requests that no handler reads yet.
        flushed: Set for a moment whenever bytes have been passed to the transport.
    """

    def __init__(self, engine: NativeEngine, on_lost: Callable[[], None]) -> None:
        self.engine, self.loop = engine, engine.loop
        self.http2 = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        self.address: object = None
        self.calls: dict[int, Call] = {}
        self.started = self.succeeded = self.waiting_bytes = 0
        self.flushed = asyncio.Event()
        self._on_lost = on_lost
        self._transport: asyncio.Transport
        self._timers: dict[Callable[[], object], asyncio.TimerHandle] = {}
        self._last_received = self.loop.time()
        self._flush_due = self._writing_paused = self._closing = False
        self._half_closed = list[int]()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=PIECE_BYTES)
        self.address = transport.get_extra_info("peername")
        self.engine.connections.add(self)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.abort()
            return
        settings = {ngh2.Setting.MAX_CONCURRENT_STREAMS: self.engine.max_streams}
        settings[ngh2.Setting.MAX_HEADER_LIST_SIZE] = METADATA_BYTES
        self.http2.initiate_connection(settings)
        self.http2.set_local_window_size(CONNECTION_WINDOW_BYTES)
        self._flush()
        self._after(HANDSHAKE_SECONDS, self.abort)
        self._after(IDLE_SECONDS, self._keep_alive)
        # Clients that connected together do not reconnect together.
        self._after(self.engine.max_age_seconds * random.uniform(0.9, 1.1), self._leave)  # noqa: S311 - no secret

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._on_lost()
        self.abort()
        self.engine.connections.discard(self)

    # Input

    def get_buffer(self, sizehint: int) -> memoryview:
        """Implement asyncio.BufferedProtocol."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._last_received = self.loop.time()
        for start in range(0, nbytes, PART_BYTES):
            self._parse(_buffer[start : min(start + PART_BYTES, nbytes)])
        if nbytes == READ_BYTES:
            # There is more. The event loop would read all of it at once.
            self._transport.pause_reading()
            self.loop.call_soon(self._transport.resume_reading)
        self.flush_soon()

    def _parse(self, data: memoryview) -> None:
        if self._closing:
            return
        try:
            self.http2.receive_data(data)
        except NGH2Error:
            self._fail()
        else:
            self._handle_events()

    def _handle_events(self) -> None:
        for event in self.http2.events():
            if isinstance(event, ngh2.DataReceived):
                if (call := self.calls.get(event.stream_id)) is not None:
                    call.request.receive(event.data, ended=event.end_stream)
            elif isinstance(event, ngh2.RequestReceived):
                self.started += 1
                self.engine.started += 1
                call = self.calls[event.stream_id] = Call(self, event.stream_id, event.headers, ended=event.end_stream)
                call.begin()
            elif isinstance(event, ngh2.StreamClosed):
                if (call := self.calls.pop(event.stream_id, None)) is not None:
                    call.close()
            elif isinstance(event, ngh2.TrailersReceived):
                if (call := self.calls.get(event.stream_id)) is not None:
                    call.request.receive(b"", ended=True)
            elif isinstance(event, ngh2.SettingsReceived):
                self._lift(self.abort)
            elif isinstance(event, ngh2.PingAcknowledged):
                self._lift(self.abort)
                if self.accept_no_more in self._timers:
                    self.accept_no_more()
            elif isinstance(event, ngh2.ConnectionClosed):
                self._close()

    def acknowledge(self, stream: int, size: int) -> None:
        """Let the caller send as many bytes again, on the stream and on the connection."""
        if not self._closing:
            try:  # noqa: SIM105 - `suppress` takes 0.2 µs of each call
                self.http2.acknowledge_received_data(size, stream)
            except ngh2.ConnectionStateError:
                pass  # The call ends in the same events as its connection, but before it.

    @cached_property
    def names(self) -> dict[str, list[bytes]]:
        """The names in the caller's certificate, with gRPC's names for their kinds."""
        return wire.names(self._transport.get_extra_info("peercert") or {})

    # Output

    def pause_writing(self) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._writing_paused = True
        self._after(RESPONSE_SECONDS, self.drop_unread)

    def resume_writing(self) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._writing_paused = False
        self._lift(self.drop_unread)
        self.flush_soon()

    def reset_when_sent(self, streams: list[int]) -> None:
        """Reset streams once their response is sent, because their caller has not ended its request."""
        self._half_closed += streams
        self.flush_soon()

    def flush_soon(self) -> None:
        """Send queued output at the end of this turn of the event loop."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._closing or self._writing_paused:
            return
        try:
            while not self._writing_paused and (data := self.http2.data_to_send(PIECE_BYTES)):
                self._transport.write(data)
            if self._half_closed and not self._writing_paused:
                self._reset_half_closed()
        except NGH2Error:
            self._fail()
            return
        self._handle_events()  # Streams also end while their bytes are taken.
        # Wake streams that wait for their caller to read.
        self.flushed.set()
        self.flushed.clear()

    def _reset_half_closed(self) -> None:
        """Reset half-closed streams whose response is sent. All that can be sent has been."""
        streams, self._half_closed = self._half_closed, []
        unread = [stream for stream in streams if self.http2.queued_body_size(stream)]
        if unread:
            # A check of all of them in every turn would cost more than any frame is worth.
            self.loop.call_later(UNREAD_SECONDS, self.reset_when_sent, unread)
        for stream in self.calls.keys() & (set(streams) - set(unread)):
            self.http2.reset_stream(stream, 0)
            self.flush_soon()

    # Time limits, and the end

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        """Call `action` after a time, unless it is lifted or the connection ends before."""
        self._timers[action] = self.loop.call_later(seconds, action)

    def _lift(self, action: Callable[[], None]) -> None:
        if (timer := self._timers.pop(action, None)) is not None:
            timer.cancel()

    def _keep_alive(self) -> None:
        """Ping a silent caller, and close its connection unless it answers."""
        left = self._last_received + IDLE_SECONDS - self.loop.time()
        if left <= 0:
            self.http2.ping()
            self.flush_soon()
            self._after(PONG_SECONDS, self.abort)
        self._after(left if left > 0 else IDLE_SECONDS, self._keep_alive)

    def _leave(self) -> None:
        """Announce the final GOAWAY. It follows once the caller knows, so that calls on their way are not lost."""
        self.http2.send_shutdown_notice()
        self.http2.ping()
        self.flush_soon()
        self._after(GOAWAY_SECONDS, self.accept_no_more)
        self._after(AGE_GRACE_SECONDS, self.end_calls)

    def accept_no_more(self) -> None:
        """Send the final GOAWAY: the caller opens another connection, and calls in flight end as usual."""
        self._lift(self.accept_no_more)
        if not self._closing:
            self.http2.send_goaway()
            self.flush_soon()

    def end_calls(self) -> None:
        """End the calls in flight with a status, and close the connection once it is sent."""
        self.accept_no_more()
        for call in list(self.calls.values()):
            call.cancel(grpc.StatusCode.UNAVAILABLE, "the sidecar closes the connection")

    def drop_unread(self) -> None:
        """Close the connection, because its caller does not read."""
        self.engine.unread.add()
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
        self._release()

    def _close(self) -> None:
        """End this side of the connection. The connection closes once the caller has received its last bytes.

        If the system closed it while bytes of the caller were unread, such as window updates, it would reset it, and
        the caller would lose what it has not received. TLS has a handshake for its end.
        """
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError):  # The caller has reset the connection.
                self._transport.write_eof()
        else:
            self._transport.close()
        self._release()
        self._after(EOF_SECONDS, self._transport.close)
        self._after(CLOSE_SECONDS, self._transport.abort)

    def _fail(self) -> None:
        """Close the connection after an error of HTTP/2, with the GOAWAY that explains it, if there is one."""
        with contextlib.suppress(NGH2Error):
            self._transport.write(self.http2.data_to_send(PIECE_BYTES))
        self._close()

    def _release(self) -> None:
        """Release the calls, and what would happen later."""
        self._closing = True
        # Emptied, because its keys refer to this connection, and what it holds would stay until a garbage collection.
        timers, self._timers = self._timers, {}
        for timer in timers.values():
            timer.cancel()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.close()
