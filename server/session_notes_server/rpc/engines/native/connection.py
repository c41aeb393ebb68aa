"""One HTTP/2 connection: bytes in, calls begun and ended, and one write per turn of the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import grpc
import ngh2
from ngh2 import NGH2Error

from session_notes_server.rpc.connections import AGE_GRACE_SECONDS, HANDSHAKE_SECONDS, METADATA_BYTES
from session_notes_server.rpc.engines.native import wire
from session_notes_server.rpc.engines.native.call import Call
from session_notes_server.rpc.transfers import RESPONSE_SECONDS

if TYPE_CHECKING:
    from session_notes_server.rpc.engines.native.server import NativeEngine

log = logging.getLogger(__name__)

CONFIGURATION = ngh2.Configuration(
    # Bytes are acknowledged when a handler reads them; see `request`.
    auto_window_update=False,
    # Clients whose deadlines pass reset calls, hundreds at a time. Beyond this rate, resets are an attack.
    stream_reset_rate_limit=(2_500, 1_000),
    # Larger headers end the connection. Those above METADATA_BYTES are answered with a status.
    max_inbound_header_list_size=4 * METADATA_BYTES,
    max_inbound_header_count=256,
)
CONNECTION_WINDOW_BYTES = 2**31 - 1
"""Each stream has a window of 64 KiB. A window for the whole connection would let one stream delay the others, so it is
unlimited. `may_wait` bounds the bytes of all streams instead."""

PIECE_BYTES = 64 * 1024
"""Bytes passed to the transport at a time. It buffers at most about this many that the caller does not read."""

IDLE_SECONDS, PONG_SECONDS = 60.0, 20.0
"""A connection without traffic is pinged after IDLE_SECONDS, and closed if it does not answer within PONG_SECONDS."""

_OVERSIZED_METADATA = f"the request has more than {METADATA_BYTES} bytes of metadata"


class Connection(asyncio.Protocol):
    """A connection, from its acceptance to its end.

    Attributes:
        loop: The event loop.
        peer: The caller's address.
        max_message_bytes: The largest message to receive.
        calls: The calls in flight, by stream.
        flushed: Set for a moment whenever bytes have been passed to the transport.
        opened: When it was accepted, in the loop's time.
        id: A number that no other connection of the engine has.
        started: The number of calls so far.
        succeeded: The number of calls that ended with the status OK.
    """

    def __init__(self, engine: NativeEngine, on_lost: Callable[[], None], *, encrypted: bool) -> None:
        self.loop = engine.loop
        self.peer = ""
        self.max_message_bytes = engine.max_message_bytes
        self.calls: dict[int, Call] = {}
        self.opened = self._last_received = self.loop.time()
        self.flushed = asyncio.Event()
        self.id = engine.next_id()
        self.started = self.succeeded = 0
        self._engine = engine
        self._encrypted = encrypted
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._http2 = ngh2.Connection(ngh2.Role.SERVER, CONFIGURATION)
        self._established = False
        self._waiting_bytes = 0
        self._flush_due = False
        self._paused_since: float | None = None
        self._half_closed: set[int] = set()
        self._last_stream = 0
        self._leaving_since: float | None = None
        self._left = False
        self._pinged: float | None = None
        self._auth_context: dict[str, list[bytes]] | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=PIECE_BYTES)
        self.peer = _peer(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        if self._encrypted and (tls is None or tls.selected_alpn_protocol() != "h2"):
            self.abort()
            return
        self._engine.connections.add(self)
        settings = {ngh2.Setting.MAX_CONCURRENT_STREAMS: self._engine.max_streams}
        settings[ngh2.Setting.MAX_HEADER_LIST_SIZE] = METADATA_BYTES
        self._http2.initiate_connection(settings)
        self._http2.set_local_window_size(CONNECTION_WINDOW_BYTES)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.Protocol."""
        self._transport = None
        self._on_lost()
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.closed()
        self._engine.remove(self)

    def data_received(self, data: bytes) -> None:
        """Implement asyncio.Protocol."""
        self._last_received = self.loop.time()
        try:
            self._http2.receive_data(data)
        except NGH2Error:
            self._fail()
            return
        self._handle_events()
        self.flush_soon()

    def pause_writing(self) -> None:
        """Implement asyncio.Protocol."""
        self._paused_since = self.loop.time()

    def resume_writing(self) -> None:
        """Implement asyncio.Protocol."""
        self._paused_since = None
        self.flush_soon()

    # Events

    def _handle_events(self) -> None:
        for event in self._http2.events():
            if isinstance(event, ngh2.DataReceived):
                call = self.calls.get(event.stream_id)
                if call is None:
                    self.acknowledge(event.stream_id, len(event.data))
                else:
                    call.request.receive(event.data, ended=event.end_stream)
            elif isinstance(event, ngh2.RequestReceived):
                self._begin(event)
            elif isinstance(event, ngh2.StreamClosed):
                self._half_closed.discard(event.stream_id)
                call = self.calls.pop(event.stream_id, None)
                if call is not None:
                    call.closed()
            elif isinstance(event, ngh2.TrailersReceived):
                call = self.calls.get(event.stream_id)
                if call is not None:
                    call.request.receive(b"", ended=True)
            elif isinstance(event, ngh2.SettingsReceived):
                self._established = True
            elif isinstance(event, ngh2.PingAcknowledged):
                self._handle_pong()
            elif isinstance(event, ngh2.ConnectionClosed):
                self._close()

    def _begin(self, event: ngh2.RequestReceived) -> None:
        stream, headers = event.stream_id, event.headers
        self.started += 1
        self._last_stream = stream
        call = self.calls[stream] = Call(self, stream, headers, ended=event.end_stream)
        fields = dict(headers)
        if fields.get(b":method") != b"POST":
            call.reject([(b":status", b"405"), (b"allow", b"POST")])
        elif not fields.get(b"content-type", b"").startswith(b"application/grpc"):
            call.reject([(b":status", b"415")])
        elif len(b"".join(chain.from_iterable(headers))) + 32 * len(headers) > METADATA_BYTES:
            call.end(grpc.StatusCode.RESOURCE_EXHAUSTED, _OVERSIZED_METADATA)
        else:
            self._begin_method(call, fields)

    def _begin_method(self, call: Call, fields: dict[bytes, bytes]) -> None:
        method = self._engine.method(fields.get(b":path", b""))
        if method is None:
            call.end(grpc.StatusCode.UNIMPLEMENTED, "unknown method")
            return
        encoding = fields.get(b"grpc-encoding", b"identity")
        if encoding != b"identity":
            if encoding not in wire.ENCODINGS:
                call.reject([*wire.RESPONSE, wire.ACCEPT_ENCODING, *wire.status(*_UNKNOWN_ENCODING)])
                return
            call.request.encoding = encoding
        seconds = None
        if (timeout := fields.get(b"grpc-timeout")) is not None:
            seconds = wire.timeout_seconds(timeout)
            if seconds is None:
                call.end(grpc.StatusCode.INTERNAL, "malformed grpc-timeout")
                return
        call.begin(method, seconds)

    # What calls need. After an error of the connection, these do nothing: the calls are about to end.

    def send_response(self, stream: int, headers: Sequence[wire.Header], *, end_stream: bool = False) -> None:
        """Queue the headers of a response."""
        try:
            self._http2.send_response(stream, headers, end_stream=end_stream)
        except NGH2Error:
            log.debug("a response could not be queued")

    def send_data(self, stream: int, data: bytes) -> None:
        """Queue a part of a response."""
        try:
            self._http2.send_data(stream, data)
        except NGH2Error:
            log.debug("a response could not be queued")

    def send_trailers(self, stream: int, headers: Sequence[wire.Header]) -> None:
        """Queue the status of a response."""
        try:
            self._http2.send_trailers(stream, headers)
        except NGH2Error:
            log.debug("a response could not be queued")

    def acknowledge(self, stream: int, size: int) -> None:
        """Let the caller send as many bytes again, on the stream and on the connection."""
        try:
            self._http2.acknowledge_received_data(size, stream)
        except NGH2Error:
            log.debug("bytes could not be acknowledged")

    def unread_bytes(self, stream: int) -> int:
        """Return how many bytes of a response the transport has not taken."""
        return self._http2.queued_body_size(stream)

    def finished(self, stream: int, call: Call) -> None:
        """Note that a call has queued its status."""
        if not call.request.ended:
            self._half_closed.add(stream)
        self.flush_soon()

    def count_waiting(self, size: int) -> None:
        """Count bytes of requests that no handler reads yet."""
        self._waiting_bytes += size
        self._engine.waiting.total += size

    def may_wait(self) -> bool:
        """Return whether the bytes that wait are within the bounds."""
        return self._engine.waiting.fits(self._waiting_bytes, 0)

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return the names in the caller's certificate, with gRPC's names for their kinds."""
        if self._auth_context is None:
            certificate = self._transport.get_extra_info("peercert") if self._transport is not None else None
            self._auth_context = _names(certificate or {})
        return self._auth_context

    # Output

    def flush_soon(self) -> None:
        """Send what is queued at the end of this turn of the event loop."""
        if not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        transport = self._transport
        if transport is None:
            return
        try:
            while self._paused_since is None and (data := self._http2.data_to_send(PIECE_BYTES)):
                transport.write(data)
            if self._half_closed and self._paused_since is None:
                self._close_streams()
        except NGH2Error:
            self._fail()
            return
        # Streams also end while their bytes are taken.
        self._handle_events()
        # Wake streams that wait for their caller to read.
        self.flushed.set()
        self.flushed.clear()
        if self._left and not self.calls and self._paused_since is None:
            self._close()

    def _close_streams(self) -> None:
        """Close streams whose response is sent although the caller has not ended its request."""
        for stream in [stream for stream in self._half_closed if not self._http2.queued_body_size(stream)]:
            self._half_closed.discard(stream)
            self._http2.reset_stream(stream, 0)
            self.flush_soon()

    # End

    def leave(self, *, now: bool = False) -> None:
        """Send a GOAWAY: the caller opens another connection, and calls in flight end as usual.

        The final GOAWAY names the last stream. Unless `now`, it follows once the caller knows of the first one, because
        calls that are on their way would be lost.
        """
        if self._left or self._transport is None:
            return
        try:
            if self._leaving_since is None:
                self._leaving_since = self.loop.time()
                self._http2.send_shutdown_notice()
                self._http2.ping()
            if now:
                self._http2.send_goaway(last_stream_id=self._last_stream)
                self._left = True
        except NGH2Error:
            self._fail()
            return
        self.flush_soon()

    def _handle_pong(self) -> None:
        self._pinged = None
        if self._leaving_since is not None:
            self.leave(now=True)

    def check(self, now: float, max_age_seconds: float) -> None:
        """Enforce the time limits. Called several times per second."""
        if not self._established and now - self.opened > HANDSHAKE_SECONDS:
            self.abort()
        elif self._paused_since is not None and now - self._paused_since > RESPONSE_SECONDS:
            self._engine.log_unread()
            self.abort()
        elif self._leaving_since is not None:
            if now - self._leaving_since > AGE_GRACE_SECONDS:
                self.abort()
            elif now - self._leaving_since > 1.0:
                self.leave(now=True)  # The caller does not answer pings.
        elif now - self.opened > max_age_seconds:
            self.leave()
        elif self._pinged is not None and self._last_received < self._pinged:
            if now - self._pinged > PONG_SECONDS:
                self.abort()
        elif now - self._last_received > IDLE_SECONDS:
            self._pinged = now
            self._http2.ping()
            self.flush_soon()

    def _fail(self) -> None:
        """Close the connection after an error of the protocol, with the GOAWAY that explains it."""
        try:
            if self._transport is not None and (data := self._http2.data_to_send(PIECE_BYTES)):
                self._transport.write(data)
        except NGH2Error:
            pass  # The error is the connection's.
        self._close()

    def _close(self) -> None:
        """Close the connection once the transport has sent its bytes."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()


_UNKNOWN_ENCODING = (grpc.StatusCode.UNIMPLEMENTED, "the encoding of the request is not supported")


def _peer(address: Any) -> str:
    """Return a socket's address in gRPC's form."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
    return "unix:"


def _names(certificate: dict[str, Any]) -> dict[str, list[bytes]]:
    names: dict[str, list[bytes]] = {"peer_dns": [], "peer_uri": [], "x509_common_name": []}
    keys = {"DNS": "peer_dns", "URI": "peer_uri"}
    for kind, name in certificate.get("subjectAltName", ()):
        if kind in keys:
            names[keys[kind]].append(name.encode())
    for group in certificate.get("subject", ()):
        names["x509_common_name"] += [text.encode() for kind, text in group if kind == "commonName"]
    return names
