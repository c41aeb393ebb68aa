"""gRPC's polling of the network, which must be chosen before grpc is imported."""

import os

POLLER = "-event_engine_listener"
"""The gRPC experiment that turns off EventEngine's listener."""


def choose_poller() -> None:
    """Let gRPC's polling thread read and write itself, unless the environment chooses otherwise.

    By default, gRPC's own threads (EventEngine) pass every event to the polling thread, which passes it to the event
    loop. Without the first hop, a call costs a quarter less CPU (docs/performance.md).
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", POLLER)
