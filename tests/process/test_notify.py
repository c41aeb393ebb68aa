"""Notifications to a service manager (sd_notify(3)): ready, watchdog pings, stopping."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.service_manager import WATCHDOG_SECONDS, Manager, manager
from tests.support import Sidecar

__all__ = ["manager"]


def test_ready_pings_and_stopping(manager: Manager) -> None:
    """READY once calls are served, pings at least twice per interval, none while it hangs, STOPPING at SIGTERM."""
    with Sidecar(env=manager.env) as sidecar:
        assert sidecar.process is not None
        assert set(manager.receive_until("READY=1")) <= {"WATCHDOG=1"}
        for _ in range(3):
            assert manager.receive(within=WATCHDOG_SECONDS / 2) == "WATCHDOG=1"
        sidecar.process.send_signal(signal.SIGSTOP)
        manager.discard()
        assert manager.receive(within=WATCHDOG_SECONDS) is None
        sidecar.process.send_signal(signal.SIGCONT)
        manager.receive_until("WATCHDOG=1")
        assert sidecar.terminate() == 0
        assert set(manager.receive_until("STOPPING=1")) <= {"WATCHDOG=1"}


def test_ready_while_the_store_is_down() -> None:
    """The sidecar is ready once it answers calls, even without a store, so that dependent services can start."""
    address = f"@session-notes-test-{os.getpid()}"
    with Manager(address) as manager, Sidecar("redis://127.0.0.1:1", env=manager.env, wait=False):
        manager.receive_until("READY=1")


@pytest.mark.parametrize(
    "env",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_PID": "1"}],
    ids=["none", "not a number", "another process"],
)
def test_no_pings_without_a_watchdog(manager: Manager, env: Mapping[str, str]) -> None:
    """Without a watchdog, or with one for another process, no pings are sent."""
    variables = {"NOTIFY_SOCKET": manager.env["NOTIFY_SOCKET"]} | (
        {"WATCHDOG_USEC": "100000"} | dict(env) if env else {}
    )
    with Sidecar(env=variables) as sidecar:
        assert sidecar.terminate() == 0
        assert manager.receive_until("READY=1") == []
        assert manager.receive_until("STOPPING=1") == []


def test_a_missing_manager_is_logged(tmp_path: Path) -> None:
    """A notification socket without a listener is logged, and has no other effect."""
    with Sidecar(env={"NOTIFY_SOCKET": str(tmp_path / "gone")}) as sidecar:
        assert "cannot send READY=1 to the service manager" in sidecar.log
        assert sidecar.terminate() == 0
