"""A fake service manager, such as systemd: a socket that receives notifications (sd_notify(3))."""

import socket
import tempfile
from collections.abc import Iterator, Mapping
from typing import Self

import pytest

WATCHDOG_SECONDS = 1.0


class Manager:
    """A fake service manager. Its socket is in the file system or, if the address begins with `@`, abstract.

    Attributes:
        env: The variables that it sets for a service.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.env: Mapping[str, str] = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": f"{WATCHDOG_SECONDS * 1e6:.0f}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def receive(self, within: float = 10.0) -> str | None:
        """Return the next notification, or None if none arrives in time."""
        self._socket.settimeout(within)
        try:
            return self._socket.recv(1024).decode()
        except TimeoutError:
            return None

    def receive_until(self, state: str) -> list[str]:
        """Return the notifications before a state, which must arrive."""
        before: list[str] = []
        while (received := self.receive()) != state:
            assert received is not None, f"no {state} after {before}"
            before.append(received)
        return before

    def discard(self) -> None:
        """Discard the notifications received so far."""
        while self.receive(within=0.01):
            pass


@pytest.fixture
def manager() -> Iterator[Manager]:
    """A service manager with a socket in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, Manager(f"{folder}/notify") as manager:
        yield manager
