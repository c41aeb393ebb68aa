"""A service manager is told (sd_notify(3)) what it asks to be told: ready, well, stopping. The test plays systemd."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from tests.support import Sidecar

WATCHDOG_SECONDS = 1.0


class Manager:
    """A service manager with a socket to be told on, in the file system or, from `@` on, abstract."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.env: Mapping[str, str] = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": f"{WATCHDOG_SECONDS * 1e6:.0f}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def said(self, within: float = 10.0) -> str | None:
        """What it is told next; None: nothing in that time."""
        self._socket.settimeout(within)
        try:
            return self._socket.recv(1024).decode()
        except TimeoutError:
            return None

    def said_at_last(self, word: str) -> list[str]:
        """All it is told until a word, without that."""
        before: list[str] = []
        while (said := self.said()) != word:
            assert said is not None, f"no {word} after {before}"
            before.append(said)
        return before

    def forget(self) -> None:
        """What it was told so far."""
        while self.said(within=0.01):
            pass


@pytest.fixture
def manager() -> Iterator[Manager]:
    """One with a socket in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, Manager(f"{folder}/notify") as manager:
        yield manager


def test_ready_well_stopping(manager: Manager) -> None:
    """READY once it listens, a ping at least twice in the watchdog's time, none while it hangs, STOPPING at SIGTERM."""
    with Sidecar(env=manager.env) as sidecar:
        assert sidecar.process is not None
        assert set(manager.said_at_last("READY=1")) <= {"WATCHDOG=1"}
        for _ in range(3):
            assert manager.said(within=WATCHDOG_SECONDS / 2) == "WATCHDOG=1"
        sidecar.process.send_signal(signal.SIGSTOP)
        manager.forget()
        assert manager.said(within=WATCHDOG_SECONDS) is None
        sidecar.process.send_signal(signal.SIGCONT)
        manager.said_at_last("WATCHDOG=1")
        assert sidecar.terminate() == 0
        assert set(manager.said_at_last("STOPPING=1")) <= {"WATCHDOG=1"}


def test_ready_while_the_store_is_down() -> None:
    """It is ready when it answers calls, be it that there is no store: whoever waits for it need not wait for that."""
    address = f"@session-notes-test-{os.getpid()}"
    with Manager(address) as manager, Sidecar("redis://127.0.0.1:1", env=manager.env, wait=False):
        manager.said_at_last("READY=1")


@pytest.mark.parametrize(
    "env", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_PID": "1"}], ids=["none", "no number", "other"]
)
def test_no_watchdog_no_pings(manager: Manager, env: Mapping[str, str]) -> None:
    """Where nobody waits for pings, or for those of another process, there are none."""
    told = {"NOTIFY_SOCKET": manager.env["NOTIFY_SOCKET"]} | ({"WATCHDOG_USEC": "100000"} | dict(env) if env else {})
    with Sidecar(env=told) as sidecar:
        assert sidecar.terminate() == 0
        assert manager.said_at_last("READY=1") == []
        assert manager.said_at_last("STOPPING=1") == []


def test_a_manager_that_is_gone_ends_nothing(tmp_path: Path) -> None:
    """A socket that nobody listens on is a line in the log."""
    with Sidecar(env={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as sidecar:
        assert "cannot send READY=1 to the service manager" in sidecar.log
        assert sidecar.terminate() == 0
