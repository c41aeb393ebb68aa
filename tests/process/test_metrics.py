"""Metrics are exact, contain no user data, and do not affect calls, whatever scrapers do."""

import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from session_notes.v1 import session_notes_pb2 as api
from session_notes.v1.session_state_pb2 import DeleteSessionRequest
from session_notes_server.contract import SERVICES

from tests.refused_starts import assert_refused
from tests.scraping import METRICS, address, scrape
from tests.stores import StoreServer, valkey_program
from tests.support import CANARY, SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused
from tests.worker_processes import channel_per_worker, sidecar_with_workers, workers

NOTES = "session_notes.v1.SessionNotes"
HEALTH = "grpc.health.v1.Health"
HANDLED = "grpc_server_handled_total"


@pytest.fixture(scope="module")
def metered() -> Iterator[Sidecar]:
    """A sidecar with metrics."""
    with Sidecar(flags=METRICS) as sidecar:
        yield sidecar


@pytest.fixture
def calls(metered: Sidecar, session_id: str) -> Iterator[SessionCalls]:
    """Calls to the sidecar with metrics, on a new session."""
    with new_channel(metered.target) as channel:
        yield SessionCalls(channel, session_id)


class Changes:
    """Changes of a sidecar's metrics from now on. Other tests call the same sidecar."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar, self._before = sidecar, scrape(sidecar)

    def series(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the change of every series that changed."""
        before, now = self._before.series(name, *labels), scrape(self._sidecar).series(name, *labels)
        return {key: value - before.get(key, 0) for key, value in now.items() if value != before.get(key, 0)}


def test_metrics_are_off_by_default(sidecar: Sidecar) -> None:
    """Without the flag, no port serves metrics."""
    assert "metrics at" not in sidecar.log


def test_every_series_exists_from_the_start(metered: Sidecar) -> None:
    """Every method has a series for every status, with the value 0 at first, so that rates include the first error."""
    at_start = scrape(metered)
    methods = {
        *((method.containing_service.full_name, method.name) for service in SERVICES for method in service.methods),
        *((HEALTH, name) for name in ("Check", "Watch")),
        *((f"grpc.reflection.{version}.ServerReflection", "ServerReflectionInfo") for version in ("v1", "v1alpha")),
        ("unknown", "unknown"),
    }
    handled = [sample for sample in at_start.samples if sample.name == HANDLED]
    series = {
        tuple(sample.labels[label] for label in ("grpc_service", "grpc_method", "grpc_code")) for sample in handled
    }
    codes = {code for _, _, code in series}
    assert {"OK", "Canceled", "InvalidArgument", "Unavailable", "DeadlineExceeded"} <= codes
    assert len(codes) == len(grpc.StatusCode)
    assert series == {(*method, code) for method, code in product(methods, codes)}
    assert at_start(HANDLED, grpc_code="DataLoss") == 0


def test_calls_are_counted_by_method_and_status(metered: Sidecar, calls: SessionCalls) -> None:
    """Each call and its duration are counted once, with the status spelled as in Go."""
    changes = Changes(metered)
    for _ in range(3):
        calls.get_notes()
    calls.append_turns(2)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        calls.get_notes(observer="not a name")
    with refused(grpc.StatusCode.ABORTED):
        calls.append_turns(1, expected_turn_count=7)
    with refused(grpc.StatusCode.NOT_FOUND):
        calls.fail_run("never-begun")
    expected = {
        ("unary", NOTES, "GetNotes", "OK"): 3,
        ("unary", NOTES, "GetNotes", "InvalidArgument"): 1,
        ("unary", "session_notes.v1.SessionState", "AppendTurns", "OK"): 1,
        ("unary", "session_notes.v1.SessionState", "AppendTurns", "Aborted"): 1,
        ("unary", NOTES, "FailRun", "NotFound"): 1,
    }
    assert changes.series(HANDLED, "grpc_type", "grpc_service", "grpc_method", "grpc_code") == expected
    by_method = {("GetNotes",): 4, ("AppendTurns",): 2, ("FailRun",): 1}
    assert changes.series("grpc_server_started_total", "grpc_method") == by_method
    assert changes.series("grpc_server_handling_seconds_count", "grpc_method") == by_method
    assert changes.series("session_notes_calls_refused_total", "reason") == {
        ("INVALID_FIELD",): 1,
        ("TURN_COUNT_MISMATCH",): 1,
        ("RUN_NOT_FOUND",): 1,
    }
    # A refusal by the store is a store operation. A call rejected before it reaches the store is not.
    assert changes.series("session_notes_store_operation_seconds_count", "operation") == {
        ("get_notes",): 3,
        ("append_turns",): 2,
        ("fail_run",): 1,
    }
    duration = changes.series("grpc_server_handling_seconds_sum", "grpc_method")[("GetNotes",)]
    in_store = changes.series("session_notes_store_operation_seconds_sum", "operation")[("get_notes",)]
    assert 0 < in_store < duration < 10


def test_readings_are_counted(metered: Sidecar, calls: SessionCalls) -> None:
    """Readings are counted by readiness and freshness, with age and drift. Each entry of a batch is a reading."""
    changes = Changes(metered)
    calls.get_notes()
    calls.begin_run("run-1", observed_turn=3)
    calls.get_notes()
    calls.write_notes("run-1", "said")
    calls.get_notes()
    calls.get_notes(current_turn=7, max_turns_behind=2)
    calls.begin_run("run-2", observer="other")
    calls.fail_run("run-2", observer="other")
    calls.get_notes(observer="other")
    request = api.GetNotesRequest(session_id=calls.id, current_turn=3, max_turns_behind=2)
    calls.notes.BatchGetNotes(api.BatchGetNotesRequest(requests=[request, request]), timeout=10)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        calls.get_notes(observer="not a name")
    assert changes.series("session_notes_reads_total", "readiness", "fresh") == {
        ("never_run", "false"): 1,
        ("running", "false"): 1,
        ("failed", "false"): 1,
        ("ready", "true"): 3,
        ("ready", "false"): 1,
    }
    assert changes.series("session_notes_read_age_seconds_count") == {(): 4}
    assert 0 < changes.series("session_notes_read_age_seconds_sum")[()] < 40
    # The current turn of one reading is unknown.
    assert changes.series("session_notes_read_turns_behind_count") == {(): 3}
    assert changes.series("session_notes_read_turns_behind_sum") == {(): 4}
    assert changes.series("session_notes_read_turns_behind_bucket", "le") == {
        **{(bound,): 2 for bound in ("0.0", "1.0", "2.0", "3.0")},
        **{(bound,): 3 for bound in ("5.0", "8.0", "13.0", "20.0", "50.0", "100.0", "+Inf")},
    }


def test_writes_and_runs_are_counted_by_outcome(metered: Sidecar, calls: SessionCalls) -> None:
    """Writes are counted by outcome, and runs at begin and end. A retry begins no run, and a duplicate ends none."""
    in_flight = scrape(metered)("session_notes_runs_at_work")
    changes = Changes(metered)
    for run_id in ("run-1", "run-2", "run-3", "run-4", "run-4"):
        calls.begin_run(run_id)
    assert scrape(metered)("session_notes_runs_at_work") == in_flight + 4
    calls.write_notes("run-2", "said")
    calls.write_notes("run-2", "said")
    calls.write_notes("run-1", "too late")
    calls.fail_run("run-3", reason=f"a {CANARY}")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        calls.write_notes("run-2", "something else")
    assert scrape(metered)("session_notes_runs_at_work") == in_flight + 1
    assert calls.begin_run("run-5", only_if_idle=True).started is False
    # The write reports that the session is deleted, which ends the run.
    calls.state.DeleteSession(DeleteSessionRequest(session_id=calls.id), timeout=10)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        calls.write_notes("run-4", "said")
    assert scrape(metered)("session_notes_runs_at_work") == in_flight
    assert changes.series("session_notes_writes_total", "outcome") == {
        ("accepted",): 1,
        ("duplicate",): 1,
        ("superseded",): 1,
    }
    assert changes.series("session_notes_runs_begun_total") == {(): 4}
    assert changes.series("session_notes_runs_ended_total", "how") == {
        ("written",): 1,
        ("superseded",): 1,
        ("failed",): 1,
    }


def test_a_run_is_in_flight_until_its_lease_ends(metered: Sidecar, calls: SessionCalls) -> None:
    """A run that never ends counts as in flight until its lease expires."""
    in_flight = scrape(metered)("session_notes_runs_at_work")
    calls.begin_run("run-1", lease=Duration(nanos=300_000_000))
    assert scrape(metered)("session_notes_runs_at_work") == in_flight + 1
    eventually(lambda: scrape(metered)("session_notes_runs_at_work") == in_flight)


def test_a_renewed_run_stays_in_flight(metered: Sidecar, calls: SessionCalls) -> None:
    """A run whose lease is renewed counts as in flight until the new lease expires, or the run ends."""
    in_flight = scrape(metered)("session_notes_runs_at_work")
    calls.begin_run("run-1", lease=Duration(seconds=1))
    calls.begin_run("run-2", lease=Duration(seconds=1))
    calls.renew_run("run-1", lease=Duration(seconds=60))
    eventually(lambda: scrape(metered)("session_notes_runs_at_work") == in_flight + 1)
    calls.renew_run("run-1", lease=Duration(nanos=300_000_000))
    eventually(lambda: scrape(metered)("session_notes_runs_at_work") == in_flight)


def test_health_and_reflection_are_counted(metered: Sidecar) -> None:
    """gRPC's own services are counted by type. A Watch is in flight until it ends."""
    changes = Changes(metered)
    with new_channel(metered.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        with refused(grpc.StatusCode.NOT_FOUND):
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        next(watch)
        assert scrape(metered)("session_notes_calls_in_flight", grpc_type="server_stream") == 1
        watch.cancel()
        eventually(lambda: scrape(metered)("session_notes_calls_in_flight", grpc_type="server_stream") == 0)
        for version in ("v1", "v1alpha"):
            info: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            )
            list(info(iter([b""]), timeout=5))
    assert changes.series(HANDLED, "grpc_type", "grpc_service", "grpc_method", "grpc_code") == {
        ("unary", HEALTH, "Check", "OK"): 1,
        ("unary", HEALTH, "Check", "NotFound"): 1,
        ("server_stream", HEALTH, "Watch", "Canceled"): 1,
        ("bidi_stream", "grpc.reflection.v1.ServerReflection", "ServerReflectionInfo", "OK"): 1,
        ("bidi_stream", "grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo", "OK"): 1,
    }


def test_unknown_methods_are_one_series(metered: Sidecar) -> None:
    """Calls of methods that do not exist share one series, so that callers cannot add series."""
    names = len(scrape(metered).samples)
    changes = Changes(metered)
    with new_channel(metered.target) as channel:
        for number in range(20):
            with refused(grpc.StatusCode.UNIMPLEMENTED):
                channel.unary_unary(f"/{NOTES}/{CANARY}{number}", bytes)(b"", timeout=5)
    assert changes.series(HANDLED, "grpc_service", "grpc_method", "grpc_code") == {
        ("unknown", "unknown", "Unimplemented"): 20
    }
    assert len(scrape(metered).samples) == names


def test_metrics_contain_no_user_data(metered: Sidecar) -> None:
    """Metrics contain no id, no name that a caller chose, and no content."""
    with new_channel(metered.target) as channel:
        calls = SessionCalls(channel, f"{CANARY}-{new_session_id()}")
        calls.append_turns(1)
        calls.begin_run(f"{CANARY}-run", observer=f"{CANARY}-observer")
        calls.write_notes(f"{CANARY}-run", "said", observer=f"{CANARY}-observer")
        calls.get_notes(observer=f"{CANARY}-observer")
    assert "canary" not in scrape(metered).text


def test_a_call_whose_caller_left_is_canceled(session_id: str) -> None:
    """A call whose caller's deadline has passed is Canceled. Until then it is in flight."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=METRICS) as sidecar:
        with new_channel(sidecar.target) as channel, ThreadPoolExecutor() as pool:
            calls = SessionCalls(channel, session_id)
            calls.get_notes()
            store.pause()
            call = pool.submit(calls.get_notes, timeout=1)
            eventually(lambda: scrape(sidecar)("session_notes_calls_in_flight", grpc_type="unary") == 1)
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
                call.result()
            eventually(lambda: scrape(sidecar)("session_notes_calls_in_flight", grpc_type="unary") == 0)
            store.resume()
        ends = scrape(sidecar).series(HANDLED, "grpc_method", "grpc_code")
        assert {end: count for end, count in ends.items() if end[0] == "GetNotes"} == {
            ("GetNotes", "OK"): 1,
            ("GetNotes", "Canceled"): 1,
        }


def test_the_stores_availability_is_reported(session_id: str) -> None:
    """`store_up` is 0 during an outage, and operations without a result are counted."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=METRICS) as sidecar:
        assert scrape(sidecar)("session_notes_store_up") == 1
        store.kill()
        eventually(lambda: scrape(sidecar)("session_notes_store_up") == 0)
        with new_channel(sidecar.target) as channel, refused(grpc.StatusCode.UNAVAILABLE):
            SessionCalls(channel, session_id).get_notes()
        down = scrape(sidecar)
        assert down.series("session_notes_store_failures_total", "operation") == {("get_notes",): 1}
        assert down.series("session_notes_calls_refused_total", "reason") == {("STORE_UNAVAILABLE",): 1}
        store.start()
        eventually(lambda: scrape(sidecar)("session_notes_store_up") == 1)


def test_overload_is_counted(session_id: str) -> None:
    """Calls rejected for overload are counted under their reason."""
    with (
        StoreServer(valkey_program()) as store,
        Sidecar(store.url, flags=[*METRICS, "--max-concurrent-calls", "3"]) as sidecar,
        new_channel(sidecar.target) as channel,
        ThreadPoolExecutor() as pool,
    ):
        calls = SessionCalls(channel, session_id)
        calls.get_notes()
        store.pause()
        held = [pool.submit(calls.get_notes, timeout=20) for _ in range(3)]
        eventually(lambda: scrape(sidecar)("session_notes_calls_in_flight", grpc_type="unary") == 3)
        for _ in range(5):
            with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"):
                calls.get_notes()
        store.resume()
        assert [call.result().ready for call in held] == [False] * 3
        now = scrape(sidecar)
        assert now("session_notes_calls_refused_total", reason="OVERLOADED") == 5
        assert now(HANDLED, grpc_method="GetNotes", grpc_code="ResourceExhausted") == 5


def test_process_metrics_are_served(metered: Sidecar) -> None:
    """Versions, memory, CPU time, garbage collections and the event loop's lag are served."""
    eventually(lambda: scrape(metered)("session_notes_event_loop_lag_seconds_count") > 1)
    now = scrape(metered)
    assert now("session_notes_build_info") == 1
    assert now("process_resident_memory_bytes") > 1e6
    assert now("process_cpu_seconds_total") > 0
    assert now("python_gc_collections_total", generation="0") >= 0


def threads(sidecar: Sidecar) -> int:
    """Return the number of threads of a sidecar's process."""
    assert sidecar.process is not None
    return len(list(Path(f"/proc/{sidecar.process.pid}/task").iterdir()))


def test_hostile_scrapers_do_not_affect_others(metered: Sidecar, calls: SessionCalls) -> None:
    """Silent connections, garbage and unread responses affect neither scrapes nor calls, and add no log line."""
    server, log, max_threads = address(metered), metered.log, threads(metered) + 10
    with ExitStack() as stack:
        for number in range(60):
            peer = stack.enter_context(socket.create_connection(server, timeout=10))
            if number % 3 == 1:
                peer.sendall(b"\x16\x03\x01\x00\xff" * 1000 + b"\r\n\r\n")
            elif number % 3 == 2:
                peer.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\n")
        before = time.monotonic()
        assert scrape(metered)("session_notes_store_up") == 1
        for _ in range(50):
            calls.get_notes(timeout=2)
        assert time.monotonic() - before < 5
        assert threads(metered) <= max_threads
    assert scrape(metered)("session_notes_store_up") == 1
    assert metered.log == log


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux distributes a port's connections")
def test_metrics_of_workers_are_summed(session_id: str) -> None:
    """With several workers, one port serves the sums of all workers, including one that was killed."""
    with sidecar_with_workers(flags=METRICS) as sidecar:
        with channel_per_worker(sidecar) as channels:
            for pid, count in zip(channels, (3, 5), strict=True):
                for _ in range(count):
                    SessionCalls(channels[pid], session_id).get_notes()
            now = scrape(sidecar)
            assert now(HANDLED, grpc_method="GetNotes", grpc_code="OK") == 8
            assert now("session_notes_reads_total", readiness="never_run") == 8
            assert now("session_notes_store_up") == 1
            processes = {sample.labels["process"] for sample in now.samples if sample.name == "process_open_fds"}
            assert processes == {"supervisor", "worker 1", "worker 2"}
            # Metrics of the supervisor's garbage collector alone would be misleading.
            assert "python_gc" not in now.text
        victim = workers(sidecar)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "serves again" in sidecar.log)
        with channel_per_worker(sidecar) as channels:
            for channel in channels.values():
                SessionCalls(channel, session_id).get_notes()
        now = scrape(sidecar)
        assert now(HANDLED, grpc_method="GetNotes", grpc_code="OK") == 10
        assert now("session_notes_calls_in_flight") == 0


@pytest.mark.parametrize("flags", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_an_address_in_use_is_an_error(flags: list[str]) -> None:
    """A metrics address that is in use is an error at startup."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        text = assert_refused(taken, ["--metrics-listen", taken, *flags])
        assert "Choose another with --metrics-listen" in text


def test_head_is_supported(metered: Sidecar) -> None:
    """HEAD, which monitors send, returns the headers of GET without a body."""
    host, port = address(metered)
    for method in ("GET", "HEAD"):
        request = urllib.request.Request(f"http://{host}:{port}/metrics", method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith("text/plain")
            assert bool(response.read()) == (method == "GET")


def test_openmetrics_is_supported(metered: Sidecar) -> None:
    """A scraper that accepts OpenMetrics gets it."""
    host, port = address(metered)
    request = urllib.request.Request(
        f"http://{host}:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        names = {family.name for family in text_string_to_metric_families(response.read().decode())}  # type: ignore[no-untyped-call]
    assert {"grpc_server_handled", "session_notes_reads", "session_notes_store_up"} <= names
