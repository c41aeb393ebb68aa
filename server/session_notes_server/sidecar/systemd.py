"""What a service manager such as systemd is told (sd_notify(3)): that we are ready, that we are well, that we stop.

It says where in the environment. Without one there is nobody to tell, and nothing is done.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

READY, WELL, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"

SEND_SECONDS = 1.0
# systemd wants two pings in the time it gives us. With four, a single late one is no reason to kill us.
PINGS = 4


def notify(state: str) -> None:
    """Tell the service manager, if there is one. That it cannot be told is no reason to end."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_SECONDS)
            # An abstract socket is written with @ in place of the NUL.
            sender.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
    except OSError as error:
        log.warning("the service manager cannot be told %s: %s", state, error.strerror or "no answer")


async def keep_alive(well: Callable[[], bool]) -> None:
    """Ping the watchdog, if there is one, for as long as we are well. In the event loop, so that a stuck one does not.

    Args:
        well: Whether all is well, asked before each ping.
    """
    seconds = _watchdog_seconds()
    if seconds is None:
        return
    while True:
        if well():
            notify(WELL)
        await asyncio.sleep(seconds / PINGS)


def _watchdog_seconds() -> float | None:
    """Within what time it wants to hear of us; None where nobody does, or where another process is meant."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 or None
