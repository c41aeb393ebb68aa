"""gRPC's poller, which must be chosen before gRPC is imported."""

import os

POLLER = "-event_engine_listener"
"""The value of `GRPC_EXPERIMENTS` that leaves out EventEngine's listener."""


def choose_poller() -> None:
    """Let the polling thread read and write by itself, unless the environment already says otherwise.

    By default gRPC's own threads (EventEngine) pass each event to the polling thread, which passes it to the event
    loop. Without that hop, a call costs a quarter less CPU (docs/performance.md).
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", POLLER)
