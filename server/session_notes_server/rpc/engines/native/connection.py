"""One HTTP/2 connection: bytes in, calls begun and ended, and one write per turn of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, cast

import grpc
import ngh2
from ngh2 import NGH2Error

from session_notes_server.rpc import errors
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

USUAL_METADATA_BYTES = 1024
"""Metadata up to this size is part of what a call costs. More of it counts as waiting until the call has ended."""

READ_BYTES, PART_BYTES = 64 * 1024, 16 * 1024
"""Bytes read from a connection in one turn of the event loop, so that a flood on one delays the others by milliseconds,
and bytes parsed at a time. Compressed headers may be a thousand times larger once parsed."""

_buffer = memoryview(bytearray(READ_BYTES))  # Bytes are parsed as soon as they are read, so connections can share it.

PIECE_BYTES = 64 * 1024
"""Bytes passed to the transport at a time. It buffers at most about this many that the caller does not read."""

IDLE_SECONDS, PONG_SECONDS = 60.0, 20.0
"""A connection without traffic is pinged after IDLE_SECONDS, and closed if it does not answer within PONG_SECONDS."""

GOAWAY_SECONDS, EOF_SECONDS, CLOSE_SECONDS = 1.0, 1.0, 20.0
"""Time for the caller to confirm that it knows of a GOAWAY, to end its side of the connection once this side has ended,
and to read what was sent before."""


class Connection(asyncio.BufferedProtocol):
    """A connection, from its acceptance to its end.

    Args:
        engine: Its engine.
        on_lost: Called when the connection is lost.
        encrypted: Whether it uses TLS.

    Attributes:
        loop: The event loop.
        http2: The state of HTTP/2. Its methods fail only after the connection has, when all calls are closed.
        peer: The caller's address.
        calls: The calls in flight, by stream.
        started: The number of calls so far.
        succeeded: The number of calls that ended with a response.
        flushed: Set for a moment whenever bytes have been passed to the transport.
        max_message_bytes: The largest message to receive.
    """

    def __init__(self, engine: NativeEngine, on_lost: Callable[[], None], *, encrypted: bool) -> None:
        self.loop = engine.loop
        self.http2 = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        self.peer = ""
        self.calls: dict[int, Call] = {}
        self.started = self.succeeded = 0
        self.flushed = asyncio.Event()
        self.max_message_bytes = engine.max_message_bytes
        self._engine, self._on_lost, self._encrypted = engine, on_lost, encrypted
        self._transport: asyncio.Transport
        self._auth_context: dict[str, list[bytes]] | None = None
        self._waiting_bytes = 0
        self._flush_due = self._read_paused = False
        # Streams whose response is queued although the caller has not ended its request: new ones, and those whose
        # caller has not read it. A check of all of them in every turn would cost more than any frame is worth.
        self._half_closed, self._unread = set[int](), set[int]()
        self._last_stream = 0
        # Clients that connected together do not reconnect together.
        self._max_age_seconds = engine.max_age_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
        # Times of the loop.
        self._opened = self._last_received = self.loop.time()
        self._paused_since: float | None = None
        self._pinged: float | None = None
        self._leaving_since: float | None = None
        self._closing_since: float | None = None
        self._established = self._left = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=PIECE_BYTES)
        self._engine.connections.add(self)
        self.peer = wire.peer(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        if self._encrypted and (tls is None or tls.selected_alpn_protocol() != "h2"):
            self.abort()
            return
        settings = {ngh2.Setting.MAX_CONCURRENT_STREAMS: self._engine.max_streams}
        settings[ngh2.Setting.MAX_HEADER_LIST_SIZE] = METADATA_BYTES
        self.http2.initiate_connection(settings)
        self.http2.set_local_window_size(CONNECTION_WINDOW_BYTES)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._on_lost()
        self.abort()
        self._engine.connections.discard(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Implement asyncio.BufferedProtocol."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._last_received = self.loop.time()
        if nbytes <= PART_BYTES:
            self._parse(_buffer[:nbytes])
        else:
            for start in range(0, nbytes, PART_BYTES):
                self._parse(_buffer[start : min(start + PART_BYTES, nbytes)])
            if nbytes == READ_BYTES:
                # There is more. The event loop would read all of it at once.
                self._transport.pause_reading()
                self._read_paused = True
        self.flush_soon()

    def _parse(self, data: memoryview) -> None:
        if self._closing_since is not None:
            return
        try:
            self.http2.receive_data(data)
        except NGH2Error:
            self._fail()
        else:
            self._handle_events()

    def pause_writing(self) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._paused_since = self.loop.time()

    def resume_writing(self) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._paused_since = None
        self.flush_soon()

    # Calls

    def _handle_events(self) -> None:
        for event in self.http2.events():
            if isinstance(event, ngh2.DataReceived):
                call = self.calls.get(event.stream_id)
                if call is not None:
                    call.request.receive(event.data, ended=event.end_stream)
                else:
                    self.acknowledge(event.stream_id, len(event.data))
            elif isinstance(event, ngh2.RequestReceived):
                self._begin(event)
            elif isinstance(event, ngh2.StreamClosed):
                self._half_closed.discard(event.stream_id)
                self._unread.discard(event.stream_id)
                if (call := self.calls.pop(event.stream_id, None)) is not None:
                    call.close()
            elif isinstance(event, ngh2.TrailersReceived):
                if (call := self.calls.get(event.stream_id)) is not None:
                    call.request.receive(b"", ended=True)
            elif isinstance(event, ngh2.SettingsReceived):
                self._established = True
            elif isinstance(event, ngh2.PingAcknowledged):
                self._pinged = None
                if self._leaving_since is not None:
                    self.leave(now=True)
            elif isinstance(event, ngh2.ConnectionClosed):
                self._close()

    def _begin(self, event: ngh2.RequestReceived) -> None:
        stream, headers = event.stream_id, event.headers
        self._engine.started += 1
        self.started += 1
        self._last_stream = stream
        call = self.calls[stream] = Call(self, stream, headers, ended=event.end_stream)
        fields = dict(headers)
        encoding = fields.get(b"grpc-encoding", b"identity")
        timeout = fields.get(b"grpc-timeout")
        metadata_bytes = len(b"".join(chain.from_iterable(headers))) + 32 * len(headers)
        seconds = wire.timeout_seconds(timeout) if timeout is not None else None
        if fields.get(b":method") != b"POST":
            call.reject([(b":status", b"405"), (b"allow", b"POST")])
        elif not wire.is_grpc(fields.get(b"content-type", b"")):
            call.reject([(b":status", b"415")])
        elif metadata_bytes > METADATA_BYTES:
            call.end(grpc.StatusCode.RESOURCE_EXHAUSTED, f"the metadata is larger than {METADATA_BYTES} bytes")
        elif (method := self._engine.method(fields.get(b":path", b""))) is None:
            call.end(grpc.StatusCode.UNIMPLEMENTED, "the method does not exist")
        elif encoding != b"identity" and encoding not in wire.ENCODINGS:
            status = wire.status(grpc.StatusCode.UNIMPLEMENTED, "the encoding of the request is not supported")
            call.reject([*wire.RESPONSE, wire.ACCEPT_ENCODING, *status])
        elif timeout is not None and seconds is None:
            call.end(grpc.StatusCode.INTERNAL, "malformed grpc-timeout")
        elif metadata_bytes > USUAL_METADATA_BYTES and not call.request.may_wait(metadata_bytes):
            call.fail(errors.overloaded())
        else:
            call.request.encoding = encoding
            call.begin(method, seconds)

    def acknowledge(self, stream: int, size: int) -> None:
        """Let the caller send as many bytes again, on the stream and on the connection."""
        if self._closing_since is None:
            self.http2.acknowledge_received_data(size, stream)

    def count_waiting(self, size: int) -> None:
        """Count bytes of requests that no handler reads yet."""
        self._waiting_bytes += size
        self._engine.waiting.total += size

    def may_wait(self) -> bool:
        """Return whether the bytes that wait are within the bounds."""
        return self._engine.waiting.fits(self._waiting_bytes, 0)

    def check_size(self, size: int) -> None:
        """Raise the error for a message above the maximum size."""
        if size > self.max_message_bytes:
            raise errors.too_large("", limit=self.max_message_bytes, actual=size)

    def finish(self, stream: int, *, request_ended: bool, succeeded: bool) -> None:
        """Send the response of a call, which is queued, and close its stream."""
        if succeeded:
            self.succeeded += 1
            self._engine.succeeded += 1
        if not request_ended:
            self._half_closed.add(stream)
        self.flush_soon()

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the caller's certificate, with gRPC's names for their kinds."""
        if self._auth_context is None:
            self._auth_context = wire.names(self._transport.get_extra_info("peercert") or {})
        return self._auth_context

    # Output

    def flush_soon(self) -> None:
        """Send queued output at the end of this turn of the event loop."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if self._read_paused:
            self._read_paused = False
            self._transport.resume_reading()
        if self._closing_since is not None or self._paused_since is not None:
            return
        try:
            while self._paused_since is None and (data := self.http2.data_to_send(PIECE_BYTES)):
                self._transport.write(data)
            if self._half_closed and self._paused_since is None:
                self._reset_sent()
        except NGH2Error:
            self._fail()
            return
        self._handle_events()  # Streams also end while their bytes are taken.
        # Wake streams that wait for their caller to read.
        self.flushed.set()
        self.flushed.clear()
        if self._left and not self.calls and self._paused_since is None:
            self._close()

    def _reset_sent(self) -> None:
        """Reset half-closed streams whose response is sent. All that can be sent has been."""
        for stream in self._half_closed:
            if self.http2.queued_body_size(stream):
                self._unread.add(stream)
            else:
                self.http2.reset_stream(stream, 0)
                self.flush_soon()
        self._half_closed.clear()

    # Time limits, and the end

    def check(self, now: float) -> None:
        """Enforce the time limits. Called several times per second."""
        if self._unread:
            self._half_closed |= self._unread
            self._unread.clear()
            self.flush_soon()
        if self._closing_since is not None:
            if now - self._closing_since > CLOSE_SECONDS:
                self.abort()
            elif now - self._closing_since > EOF_SECONDS:
                self._transport.close()
        elif self._paused_since is not None and now - self._paused_since > RESPONSE_SECONDS:
            self.drop_unread()
        elif not self._established and now - self._opened > HANDSHAKE_SECONDS:
            self.abort()
        elif self._leaving_since is not None:
            if now - self._leaving_since > AGE_GRACE_SECONDS:
                self.end_calls()
            elif now - self._leaving_since > GOAWAY_SECONDS:
                self.leave(now=True)
        elif now - self._opened > self._max_age_seconds:
            self.leave()
        elif self._pinged is not None:
            if now - self._pinged > PONG_SECONDS:
                self.abort()
        elif now - self._last_received > IDLE_SECONDS:
            self._pinged = now
            self.http2.ping()
            self.flush_soon()

    def leave(self, *, now: bool = False) -> None:
        """Send a GOAWAY: the caller opens another connection, and calls in flight end as usual.

        The final GOAWAY names the last stream. Unless `now`, it follows once the caller knows of the first one, because
        calls that are on their way would be lost.
        """
        if self._left or self._closing_since is not None:
            return
        if self._leaving_since is None:
            self._leaving_since = self.loop.time()
            self.http2.send_shutdown_notice()
            self.http2.ping()
        if now:
            self.http2.send_goaway(last_stream_id=self._last_stream)
            self._left = True
        self.flush_soon()

    def end_calls(self) -> None:
        """End the calls in flight with a status, and close the connection once it is sent."""
        self.leave(now=True)
        for call in list(self.calls.values()):
            call.cancel(grpc.StatusCode.UNAVAILABLE, "the sidecar closes the connection")

    def drop_unread(self) -> None:
        """Close the connection, because its caller does not read."""
        self._engine.log_unread()
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
        self._close_calls()

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
        self._close_calls()

    def _close_calls(self) -> None:
        self._closing_since = self._closing_since or self.loop.time()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.close()

    def _fail(self) -> None:
        """Close the connection after an error of HTTP/2, with the GOAWAY that explains it, if there is one."""
        with contextlib.suppress(NGH2Error):
            self._transport.write(self.http2.data_to_send(PIECE_BYTES))
        self._close()
