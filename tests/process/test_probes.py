"""Probes over HTTP agree with `grpc.health.v1`, and cost no process."""

import os
import signal
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.scraping import METRICS, address
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, status_of
from tests.worker_processes import WORKERS, needs_linux, sidecar_with_workers, workers

LIVE, READY = "/livez", "/readyz"


def get(sidecar: Sidecar, path: str, method: str = "GET") -> tuple[int, str]:
    """Return the status and the body of a request."""
    host, port = address(sidecar)
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def statuses(sidecar: Sidecar) -> tuple[int, int]:
    """Return the statuses of both probes: live, ready."""
    return get(sidecar, LIVE)[0], get(sidecar, READY)[0]


@pytest.mark.parametrize("flags", [[], WORKERS], ids=["alone", "workers"])
def test_readiness_follows_the_store(flags: list[str]) -> None:
    """While the store is down, the sidecar is live but not ready, as health says, and ready again afterwards."""
    with (
        StoreServer(valkey_program()) as store,
        Sidecar(store.url, flags=[*METRICS, *flags]) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)

        def agree(ready: int) -> bool:
            serving = health.Check(health_pb2.HealthCheckRequest(), timeout=5).status
            return statuses(sidecar) == (200, ready) and serving == (1 if ready == 200 else 2)

        eventually(lambda: agree(200))
        assert (get(sidecar, LIVE), get(sidecar, READY)) == ((200, "ok\n"), (200, "ok\n"))
        store.kill()
        eventually(lambda: agree(503))
        assert get(sidecar, READY)[1] == "not ready: the store cannot be used, or the sidecar is not serving\n"
        store.start()
        eventually(lambda: agree(200))


def test_head_and_queries() -> None:
    """HEAD returns the status without a body. A query, which some monitors add, changes nothing."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=METRICS) as sidecar:
        eventually(lambda: get(sidecar, READY, "HEAD") == (200, ""))
        store.kill()
        eventually(lambda: get(sidecar, READY, "HEAD") == (503, ""))
        assert get(sidecar, f"{READY}?verbose")[0] == 503
        assert get(sidecar, f"{LIVE}?verbose") == (200, "ok\n")


def test_a_probe_of_another_path_fails() -> None:
    """A probe with a misspelt path fails from the start. It must not pass whatever the state of the store."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=METRICS) as sidecar:
        for path in ("/", "/healthz", "/ready", "/readyz/", "/LIVEZ", "/metrics/"):
            assert get(sidecar, path) == (404, "not found: this port serves /metrics, /livez and /readyz\n")
            assert get(sidecar, path, "HEAD") == (404, "")


def test_a_starting_sidecar_is_not_live() -> None:
    """Until calls are served, both probes fail. A store that does not respond prevents only readiness."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Sidecar(f"redis://127.0.0.1:{silent.getsockname()[1]}", flags=METRICS, wait=False) as sidecar,
        ThreadPoolExecutor() as pool,
    ):
        eventually(lambda: statuses(sidecar) == (200, 503))
        sidecar.kill()
        began = len(sidecar.log)
        start = pool.submit(sidecar.start)
        eventually(lambda: "metrics at" in sidecar.log[began:])
        assert "listening on" not in sidecar.log[began:]
        assert statuses(sidecar) == (503, 503)
        start.result()
        eventually(lambda: statuses(sidecar) == (200, 503))


def test_a_stopping_sidecar_is_not_ready(session_id: str) -> None:
    """From SIGTERM until the last call has ended, both probes fail, so that no traffic arrives."""
    with (
        StoreServer(valkey_program()) as store,
        Sidecar(store.url, flags=METRICS) as sidecar,
        new_channel(sidecar.target) as channel,
        ThreadPoolExecutor() as pool,
    ):
        calls = SessionCalls(channel, session_id)
        calls.get_notes()
        store.pause()
        call = pool.submit(status_of, calls.get_notes)
        assert sidecar.process is not None
        sidecar.process.send_signal(signal.SIGTERM)
        eventually(lambda: statuses(sidecar) == (503, 503))
        store.resume()
        call.result()


@needs_linux
def test_a_hanging_worker_is_not_live() -> None:
    """If one of several workers hangs, both probes fail until it runs again."""
    with sidecar_with_workers(flags=METRICS) as sidecar:
        eventually(lambda: statuses(sidecar) == (200, 200))
        os.kill(workers(sidecar)[0], signal.SIGSTOP)
        eventually(lambda: statuses(sidecar) == (503, 503), 20)
        os.kill(workers(sidecar)[0], signal.SIGCONT)
        eventually(lambda: statuses(sidecar) == (200, 200))


@needs_linux
def test_a_worker_that_is_restarted_does_not_count() -> None:
    """The sidecar is ready while another worker serves. Without any worker, it is neither live nor ready."""
    with sidecar_with_workers(flags=METRICS) as sidecar:
        eventually(lambda: statuses(sidecar) == (200, 200))
        first, second = workers(sidecar)
        os.kill(first, signal.SIGKILL)
        while "serves again" not in sidecar.log:
            assert statuses(sidecar) == (200, 200)
        for pid in workers(sidecar):
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: statuses(sidecar) == (503, 503), 2, every=0.001)
        eventually(lambda: statuses(sidecar) == (200, 200), 20)
        assert second not in workers(sidecar)
