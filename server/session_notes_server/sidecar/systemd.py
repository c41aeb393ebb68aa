"""Notifications to a service manager such as systemd (sd_notify(3)): ready, alive, stopping.

The service manager names its socket in the environment. Without one, nothing is sent.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

log = logging.getLogger(__name__)

READY, ALIVE, STOPPING = "READY=1", "WATCHDOG=1", "STOPPING=1"

SEND_SECONDS = 1.0
# systemd recommends two pings per watchdog interval. With four, one late ping does not end the process.
PINGS_PER_INTERVAL = 4


def notify(state: str) -> None:
    """Send a state to the service manager, if there is one. A failure is logged and has no other effect."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_SECONDS)
            # The name of an abstract socket begins with @ in the environment, and with NUL in the system call.
            sender.sendto(state.encode(), "\0" + path[1:] if path.startswith("@") else path)
    except OSError as error:
        log.warning("cannot send %s to the service manager: %s", state, error.strerror or "no answer")


async def ping_watchdog(is_alive: Callable[[], bool]) -> None:
    """Ping the watchdog, if there is one, while the sidecar is alive. A hanging event loop sends no ping.

    Args:
        is_alive: Checked before each ping.
    """
    interval = _watchdog_seconds()
    if interval is None:
        return
    while True:
        if is_alive():
            notify(ALIVE)
        await asyncio.sleep(interval / PINGS_PER_INTERVAL)


def _watchdog_seconds() -> float | None:
    """Return the watchdog's interval, or None if there is no watchdog, or one for another process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(microseconds) / 1e6 or None
