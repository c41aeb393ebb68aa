"""Limits on connections. Each is covered by a test."""

from __future__ import annotations

import resource

from session_notes_server.addresses import AddressError
from session_notes_server.settings import Settings

# Between nearby hosts, no TLS or HTTP/2 handshake takes longer. gRPC's default is two minutes.
HANDSHAKE_SECONDS = 5
# A connection at its maximum age accepts no new calls, and clients open another. Calls in flight have this long to end.
# Only Watches, and calls whose responses are not read, take longer.
AGE_GRACE_SECONDS = 30
# Enough for tokens and traces.
METADATA_BYTES = 16 * 1024
# File descriptors reserved for the store, tokens and certificates: this many, or half the limit if that is fewer. A
# sidecar without connections uses about 25.
SPARE_DESCRIPTORS, MIN_DESCRIPTORS = 100, 64

MAX_INT = 2**31 - 1


def connections_per_address(settings: Settings) -> int:
    """Return how many connections each address may accept, so that file descriptors suffice for all addresses.

    Raises:
        AddressError: If the limit on open files is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY or limit > MAX_INT:
        limit = MAX_INT
    if limit < MIN_DESCRIPTORS:
        raise AddressError(
            f"cannot accept connections: this process may open {limit} files, and each connection takes one. Raise the "
            f"limit (ulimit -n) to at least {MIN_DESCRIPTORS}."
        )
    return max((limit - min(SPARE_DESCRIPTORS, limit // 2)) // len(settings.listen), 1)
