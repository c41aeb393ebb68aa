"""Health tells the truth: `live` of the process, `ready` of the store too, each within 2 s."""

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
TELLS_SECONDS = 2.0


@dataclass
class Told:
    """What health said, asked over and over: the time of each change, by service."""

    sidecar: Sidecar
    changes: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: {"live": [], "ready": []})

    def now(self, service: str) -> int:
        return self.changes[service][-1][1]

    def all(self, service: str) -> list[int]:
        return [status for _, status in self.changes[service]]

    def seconds_until(self, status: int, since: float) -> float:
        """How long after `since` `ready` turned to a status; waits for it."""
        eventually(lambda: self.now("ready") == status, 3 * TELLS_SECONDS)
        return max(0.0, self.changes["ready"][-1][0] - since)


@contextmanager
def listening(sidecar: Sidecar) -> Iterator[Told]:
    """Asks for both, twenty times a second, as long as the block runs."""
    told, stopped = Told(sidecar), threading.Event()

    def ask() -> None:
        with new_channel(sidecar.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            while not stopped.wait(0.05):
                for service, changes in told.changes.items():
                    status = int(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=2).status)
                    if not changes or changes[-1][1] != status:
                        changes.append((time.monotonic(), status))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        eventually(lambda: all(told.changes.values()))
        yield told
    finally:
        stopped.set()
        thread.join()


def reasons(sidecar: Sidecar) -> list[str]:
    """Why the store could not be used, as the log has it: a line for each change."""
    return re.findall(r"NOT_SERVING: (.*)", sidecar.log)


@pytest.mark.parametrize("fault", ["killed", "stopped", "black_hole", "black_hole_at_new_connections"])
def test_a_store_that_is_down_is_told_of(fault: str, effort: Callable[[int, int], int]) -> None:
    """The store is killed, stopped or cut off (60 s with --soak): `ready` says so within 2 s, until within 2 s of its
    return; `live` is SERVING throughout, so that nobody restarts a sidecar for it."""
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=DEFAULTS) as sidecar,
        listening(sidecar) as told,
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
        assert told.seconds_until(NOT_SERVING, since) <= TELLS_SECONDS
        # Down for long, with nothing to wait for.
        time.sleep(effort(3, 60))
        assert told.now("ready") == NOT_SERVING
        if fault in end:
            end[fault]()
        proxy.black_hole = False
        since = time.monotonic()
        assert told.seconds_until(SERVING, since) <= TELLS_SECONDS
        assert told.all("ready") == [SERVING, NOT_SERVING, SERVING]
        assert told.all("live") == [SERVING]
        if fault == "stopped":
            assert reasons(sidecar) == ["no answer in time"]


@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_an_embedded_store_that_is_down_is_told_of(fault: str, effort: Callable[[int, int], int]) -> None:
    """As above. One that was killed is running again at once, so fast that `ready` need not even have noticed."""
    with Sidecar(flags=DEFAULTS) as sidecar, listening(sidecar) as told:
        (pid,) = sidecar.store_pids()
        if fault == "killed":
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: sidecar.store_pids() not in ([], [pid]), TELLS_SECONDS)
            eventually(lambda: "is running again" in sidecar.log)
        else:
            since = time.monotonic()
            os.kill(pid, signal.SIGSTOP)
            try:
                assert told.seconds_until(NOT_SERVING, since) <= TELLS_SECONDS
                time.sleep(effort(1, 60))
                assert reasons(sidecar) == ["no answer in time"]
            finally:
                os.kill(pid, signal.SIGCONT)
        since = time.monotonic()
        assert told.seconds_until(SERVING, since) <= TELLS_SECONDS
        time.sleep(0.5)
        assert told.now("ready") == SERVING
        assert told.all("live") == [SERVING]


def test_a_sidecar_that_stops_is_neither() -> None:
    """SIGTERM: whoever watches `live` or `ready` hears NOT_SERVING before the connection goes."""
    with Sidecar(flags=DEFAULTS) as sidecar, new_channel(sidecar.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest(service=service)) for service in ("live", "ready")]
        assert [next(watch).status for watch in watches] == [SERVING, SERVING]
        sidecar.terminate()
        assert [next(watch).status for watch in watches] == [NOT_SERVING, NOT_SERVING]


def test_a_moment_of_silence_is_no_outage() -> None:
    """The store is silent for a fifth of a second, again and again: GetNotes gives its link up, and `ready` stays."""
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url, flags=DEFAULTS) as sidecar,
        new_channel(sidecar.target) as channel,
        listening(sidecar) as told,
    ):
        session = SessionCalls(channel, new_session_id())
        for _ in range(5):
            server.pause()
            assert status_of(session.get_notes) == grpc.StatusCode.UNAVAILABLE
            server.resume()
            eventually(lambda: status_of(session.get_notes) == grpc.StatusCode.OK)
            # As long as health asks once.
            time.sleep(0.5)
        assert told.all("ready") == [SERVING]
