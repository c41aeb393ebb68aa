"""How gRPC waits for the network, to be said before it is imported."""

import os

POLLER = "-event_engine_listener"
"""Among gRPC's experiments: without the listener of EventEngine."""


def choose_poller() -> None:
    """Have the thread that waits for events do the reading and writing itself, unless the environment says otherwise.

    By default gRPC has threads of its own (EventEngine) hand every event over to that thread, which hands it over to
    the event loop. Without that hop a call costs a quarter less CPU (docs/performance.md).
    """
    os.environ.setdefault("GRPC_EXPERIMENTS", POLLER)
