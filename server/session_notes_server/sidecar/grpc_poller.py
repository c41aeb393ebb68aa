"""grpc.aio's poller, which must be chosen before gRPC is imported."""

import os

POLLER = "-event_engine_listener"
"""The value of `GRPC_EXPERIMENTS` that disables EventEngine's listener."""


def choose_poller() -> None:
    """Let the polling thread do its own reads and writes, unless GRPC_EXPERIMENTS is already set.

    By default gRPC's own threads (EventEngine) pass each event to the polling thread, which passes it to the event
    loop. Without that hop, a call takes a quarter less CPU (docs/performance.md).
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", POLLER)
