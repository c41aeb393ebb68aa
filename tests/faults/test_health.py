"""Health: `live` reflects the process, `ready` also the store, each within 2 s."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.faults.proxy import Proxy
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, status_of

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
DEFAULTS = ("--notes-timeout", "80ms", "--store-timeout", "1s")
HEALTH_SECONDS = 2.0


@dataclass
class HealthLog:
    """The changes of `live` and `ready`, with their times."""

    sidecar: Sidecar
    changes: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: {"live": [], "ready": []})

    def latest(self, service: str) -> int:
        return self.changes[service][-1][1]

    def statuses(self, service: str) -> list[int]:
        return [status for _, status in self.changes[service]]

    def seconds_until(self, status: int, since: float) -> float:
        """Wait until `ready` has a status, and return the seconds from `since` to that change."""
        eventually(lambda: self.latest("ready") == status, 3 * HEALTH_SECONDS)
        return max(0.0, self.changes["ready"][-1][0] - since)


@contextmanager
def health_log(sidecar: Sidecar) -> Iterator[HealthLog]:
    """Check `live` and `ready` twenty times a second within the block."""
    log, stopped = HealthLog(sidecar), threading.Event()

    def check() -> None:
        with new_channel(sidecar.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not stopped.wait(0.05):
                for service, changes in log.changes.items():
                    status = int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=2).status)
                    if not changes or changes[-1][1] != status:
                        changes.append((time.monotonic(), status))

    thread = threading.Thread(target=check)
    thread.start()
    try:
        eventually(lambda: all(log.changes.values()))
        yield log
    finally:
        stopped.set()
        thread.join()


def reasons(sidecar: Sidecar) -> list[str]:
    """Return the logged reasons for NOT_SERVING."""
    return re.findall(r"NOT_SERVING: (.*)", sidecar.log)


@pytest.mark.parametrize("fault", ["killed", "stopped", "black_hole", "black_hole_at_new_connections"])
def test_ready_follows_the_store(fault: str, effort: Callable[[int, int], int]) -> None:
    """Within 2 s, `ready` follows the loss and the return of the store, while `live` stays SERVING."""
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=DEFAULTS) as sidecar,
        health_log(sidecar) as log,
    ):
        begin: dict[str, Callable[[], None]] = {"killed": server.kill, "stopped": server.pause}
        end: dict[str, Callable[[], None]] = {"killed": server.start, "stopped": server.resume}
        since = time.monotonic()
        if fault.startswith("black_hole"):
            proxy.black_hole = True
            if fault != "black_hole":
                proxy.refuse()
                proxy.accept()
        else:
            begin[fault]()
        assert log.seconds_until(NOT_SERVING, since) <= HEALTH_SECONDS
        # A long outage.
        time.sleep(effort(3, 60))
        assert log.latest("ready") == NOT_SERVING
        if fault in end:
            end[fault]()
        proxy.black_hole = False
        since = time.monotonic()
        assert log.seconds_until(SERVING, since) <= HEALTH_SECONDS
        assert log.statuses("ready") == [SERVING, NOT_SERVING, SERVING]
        assert log.statuses("live") == [SERVING]
        if fault == "stopped":
            assert reasons(sidecar) == ["no answer in time"]


@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_ready_follows_the_embedded_store(fault: str, effort: Callable[[int, int], int]) -> None:
    """`ready` follows a stopped embedded store; a killed one is restarted, perhaps before `ready` changes."""
    with Sidecar(flags=DEFAULTS) as sidecar, health_log(sidecar) as log:
        (pid,) = sidecar.store_pids()
        if fault == "killed":
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: sidecar.store_pids() not in ([], [pid]), HEALTH_SECONDS)
            eventually(lambda: "is running again" in sidecar.log)
        else:
            since = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            try:
                assert log.seconds_until(NOT_SERVING, since) <= HEALTH_SECONDS
                time.sleep(effort(1, 60))
                assert reasons(sidecar) == ["no answer in time"]
            finally:
                os.kill(pid, signal.SIGCONT)
        since = time.monotonic()
        assert log.seconds_until(SERVING, since) <= HEALTH_SECONDS
        time.sleep(0.5)
        assert log.latest("ready") == SERVING
        assert log.statuses("live") == [SERVING]


def test_a_shutdown_is_neither_live_nor_ready() -> None:
    """On SIGTERM, Watches of `live` and `ready` get NOT_SERVING before their connection ends."""
    with Sidecar(flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=service)) for service in ("live", "ready")]
        assert [next(watch).status for watch in watches] == [SERVING, SERVING]
        sidecar.terminate()
        assert [next(watch).status for watch in watches] == [NOT_SERVING, NOT_SERVING]


def test_a_moment_of_silence_is_no_outage() -> None:
    """If the store is briefly silent, GetNotes replaces its connection and `ready` stays SERVING."""
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url, flags=DEFAULTS) as sidecar,
        new_channel(sidecar.target) as channel,
        health_log(sidecar) as log,
    ):
        session = SessionCalls(channel, new_session_id())
        for _ in range(5):
            server.pause()
            assert status_of(session.get_notes) == grpc.StatusCode.UNAVAILABLE
            server.resume()
            eventually(lambda: status_of(session.get_notes) == grpc.StatusCode.OK)
            # The period of the readiness probe.
            time.sleep(0.5)
        assert log.statuses("ready") == [SERVING]
