"""What gRPC and HTTP/2 are told: the limits that are theirs to keep. Each was seen to work, by a test."""

from __future__ import annotations

import resource
from datetime import timedelta

from session_notes_server.addresses import AddressError
from session_notes_server.settings import Settings

# Nothing of TLS and HTTP/2 takes longer between neighbours. gRPC's own limit is two minutes.
HANDSHAKE_SECONDS = 5
# A connection that has reached its age takes no new calls (clients open another one first, and notice nothing); what is
# under way has so long to end. No call of ours takes longer than that, only Watches and callers who do not read.
AGE_GRACE_SECONDS = 30
# Descriptors that connections leave to the store, to tokens and certificates; half of them where there are fewer than
# twice as many. A sidecar without connections has about 25 open.
SPARE_DESCRIPTORS, LEAST_DESCRIPTORS = 100, 64
_LARGEST = 2**31 - 1
# Enough for tokens and traces. By gRPC's default metadata between 8 and 16 KiB are refused at random.
METADATA_BYTES = 16 * 1024


def connections_per_address(settings: Settings) -> int:
    """Return how many connections an address takes, so that there are descriptors for all of them.

    Raises:
        AddressError: The limit on open files leaves too few.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit > _LARGEST:
        limit = _LARGEST
    if limit < LEAST_DESCRIPTORS:
        raise AddressError(
            f"cannot take connections: this process may open {limit} files. Raise the limit (ulimit -n) to at least "
            f"{LEAST_DESCRIPTORS}; a connection takes one."
        )
    return max((limit - min(SPARE_DESCRIPTORS, limit // 2)) // len(settings.listen), 1)


def options(settings: Settings) -> list[tuple[str, int]]:
    """Return the options of a server, as gRPC core names them."""
    age = min(settings.max_connection_age // timedelta(milliseconds=1), _LARGEST)  # gRPC's "for ever"
    return [
        # Two sidecars on one port would share its calls at random; a taken port is an error instead. Workers share
        # theirs, which their supervisor keeps from everybody else.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        # What is up to twice too large we refuse ourselves, with the limit; gRPC's own refusal does not say it.
        ("grpc.max_receive_message_length", min(2 * settings.limits.message_bytes, _LARGEST)),
        # Else gRPC takes some MiB of each request, wanted or not; so it leaves all but 64 KiB of a connection with the
        # caller until a handler reads.
        ("grpc.http2.bdp_probe", 0),
        # Beyond so many calls that no handler has taken up yet, gRPC cancels some at random, without a reason.
        # Its default of 1,000 is what one burst of some hundred sessions can bring.
        ("grpc.server.max_pending_requests", 10_000),
        ("grpc.server.max_pending_requests_hard_limit", 20_000),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_SECONDS * 1000),
        ("grpc.max_connection_age_ms", age),
        ("grpc.max_connection_age_grace_ms", AGE_GRACE_SECONDS * 1000),
        ("grpc.max_allowed_incoming_connections", connections_per_address(settings)),
        # Clients behind proxies that forget idle connections may ping, at most every ten seconds.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
