"""Limits enforced by gRPC's own HTTP/2. Each is covered by a test."""

from __future__ import annotations

from datetime import timedelta

from session_notes_server.rpc.connections import (
    AGE_GRACE_SECONDS,
    HANDSHAKE_SECONDS,
    MAX_INT,
    METADATA_BYTES,
    connections_per_address,
)
from session_notes_server.settings import Settings


def options(settings: Settings) -> list[tuple[str, int]]:
    """Return the options of the gRPC server."""
    age = min(settings.max_connection_age // timedelta(milliseconds=1), MAX_INT)  # gRPC's value for no limit.
    return [
        # Two sidecars on one port would share its calls at random, so a port in use must be an error. Workers share a
        # port, and their supervisor reserves it for them.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # The sidecar itself rejects requests of up to twice the limit, because gRPC's status does not name the limit.
        ("grpc.max_receive_message_length", min(2 * settings.limits.message_bytes, MAX_INT)),
        # With bandwidth probes, gRPC receives several MiB of each request before a handler reads it. Without, all but
        # 64 KiB per connection stay with the caller.
        ("grpc.http2.bdp_probe", 0),
        # Beyond this many calls waiting for a handler, gRPC cancels some at random and without a reason. A burst of a
        # few hundred sessions reaches the default of 1,000.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 20_000),
        # With gRPC's default, metadata between 8 and 16 KiB is rejected at random.
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_age_ms", age),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1000),
        ("grpc.max_allowed_incoming_connections", connections_per_address(settings)),
        # Clients behind proxies that drop idle connections may ping, at most every ten seconds.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
