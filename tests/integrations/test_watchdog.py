"""A service manager's watchdog with --workers: the supervisor answers for all of them."""

import os
import signal
import sys
from contextlib import suppress

import pytest

from tests.service_manager import WATCHDOG_SECONDS, Manager, manager
from tests.support import eventually
from tests.worker_processes import sidecar_with_workers, workers

__all__ = ["manager"]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers are for Linux")


def test_no_pings_while_a_worker_hangs(manager: Manager) -> None:
    """READY once all serve; a worker that is there and does not answer keeps the pings away, until it answers again."""
    with sidecar_with_workers(env=manager.env) as sidecar:
        manager.receive_until("READY=1")
        assert manager.receive(within=WATCHDOG_SECONDS) == "WATCHDOG=1"
        stuck = workers(sidecar)[1]
        os.kill(stuck, signal.SIGSTOP)
        try:
            # One may come after it was asked for the last time.
            eventually(lambda: manager.receive(within=2 * WATCHDOG_SECONDS) is None, 10 * WATCHDOG_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.kill(stuck, signal.SIGCONT)
        manager.receive_until("WATCHDOG=1")
        assert stuck in workers(sidecar)
        assert sidecar.terminate() == 0
        assert set(manager.receive_until("STOPPING=1")) <= {"WATCHDOG=1"}


def test_a_worker_that_ended_is_the_supervisors_concern(manager: Manager) -> None:
    """While another is started in its place, pings go on: no reason to restart those that serve."""
    with sidecar_with_workers(env=manager.env) as sidecar:
        manager.receive_until("READY=1")
        os.kill(workers(sidecar)[1], signal.SIGKILL)
        pings = 0
        while "serves again" not in sidecar.log or pings < 4:
            assert manager.receive(within=2 * WATCHDOG_SECONDS) == "WATCHDOG=1"
            pings += 1


def test_a_worker_is_never_the_manager_s(manager: Manager) -> None:
    """What the manager is told comes from the process that it started: one READY, one STOPPING, pings of one."""
    with sidecar_with_workers(env=manager.env) as sidecar:
        assert sidecar.terminate() == 0
        said = [*manager.receive_until("STOPPING=1")]
        assert said.count("READY=1") == 1
