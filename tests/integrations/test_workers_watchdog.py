"""The service manager's watchdog with --workers: the supervisor sends the pings for all workers."""

import os
import signal
import sys
from contextlib import suppress

import pytest

from tests.service_manager import WATCHDOG_SECONDS, Manager, manager
from tests.support import eventually
from tests.worker_processes import sidecar_with_workers, workers

__all__ = ["manager"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")


def test_hanging_worker_stops_the_pings(manager: Manager) -> None:
    """READY is sent once all workers serve; pings stop while a worker hangs and resume when it responds."""
    with sidecar_with_workers(env=manager.env) as sidecar:
        manager.receive_until("READY=1")
        assert manager.receive(within=WATCHDOG_SECONDS) == "WATCHDOG=1"
        stuck = workers(sidecar)[1]
        os.kill(stuck, signal.SIGSTOP)
        try:
            # One more ping may follow the worker's last response.
            eventually(lambda: manager.receive(within=2 * WATCHDOG_SECONDS) is None, 10 * WATCHDOG_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.kill(stuck, signal.SIGCONT)
        manager.receive_until("WATCHDOG=1")
        assert stuck in workers(sidecar)
        assert sidecar.terminate() == 0
        assert set(manager.receive_until("STOPPING=1")) <= {"WATCHDOG=1"}


def test_pings_continue_while_a_worker_is_replaced(manager: Manager) -> None:
    """A killed worker is replaced without a pause in the pings, so the manager does not restart the others."""
    with sidecar_with_workers(env=manager.env) as sidecar:
        manager.receive_until("READY=1")
        os.kill(workers(sidecar)[1], signal.SIGKILL)
        pings = 0
        while "serves again" not in sidecar.log or pings < 4:
            assert manager.receive(within=2 * WATCHDOG_SECONDS) == "WATCHDOG=1"
            pings += 1


def test_only_the_supervisor_notifies_the_manager(manager: Manager) -> None:
    """The manager receives one READY and one STOPPING, however many workers run."""
    with sidecar_with_workers(env=manager.env) as sidecar:
        assert sidecar.terminate() == 0
        messages = [*manager.receive_until("STOPPING=1")]
        assert messages.count("READY=1") == 1
