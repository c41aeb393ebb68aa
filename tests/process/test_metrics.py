"""Metrics are exactly what happened, hold nothing of users, and cost the calls nothing, whoever scrapes."""

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

from tests.refused_starts import assert_refused
from tests.scraping import ON, address, scrape
from tests.stores import StoreServer, valkey_program
from tests.support import CANARY, SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused
from tests.worker_processes import channel_per_worker, sidecar_with_workers, workers

NOTES = "session_notes.v1.SessionNotes"
HANDLED = "grpc_server_handled_total"


@pytest.fixture(scope="module")
def watched() -> Iterator[Sidecar]:
    """A sidecar that tells its metrics."""
    with Sidecar(flags=ON) as sidecar:
        yield sidecar


@pytest.fixture
def calls(watched: Sidecar, session_id: str) -> Iterator[SessionCalls]:
    """Calls to it, on a session of the test's own."""
    with new_channel(watched.target) as channel:
        yield SessionCalls(channel, session_id)


class Difference:
    """How the numbers of a sidecar that other tests call, too, change from here on."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar, self._before = sidecar, scrape(sidecar)

    def series(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The series that grew, and by how much."""
        before, now = self._before.series(name, *labels), scrape(self._sidecar).series(name, *labels)
        return {key: value - before.get(key, 0) for key, value in now.items() if value != before.get(key, 0)}


def test_nothing_is_told_unless_asked_for(sidecar: Sidecar) -> None:
    """By default there is no port for metrics."""
    assert "metrics at" not in sidecar.log


def test_every_series_is_there_from_the_start(watched: Sidecar) -> None:
    """All methods, with all statuses, are there at 0, so that a rate sees the first error."""
    at_start = scrape(watched)
    methods = {
        *((NOTES, name) for name in ("GetNotes", "BatchGetNotes", "BeginRun", "WriteNotes", "FailRun", "ListRuns")),
        *(
            ("session_notes.v1.SessionState", name)
            for name in ("GetSession", "UpdateSession", "AppendTurns", "DeleteSession", "ListSessions")
        ),
        *(("grpc.health.v1.Health", name) for name in ("Check", "Watch")),
        ("grpc.reflection.v1alpha.ServerReflection", "ServerReflectionInfo"),
        ("unknown", "unknown"),
    }
    handled = [sample for sample in at_start.samples if sample.name == HANDLED]
    found = {(one.labels["grpc_service"], one.labels["grpc_method"], one.labels["grpc_code"]) for one in handled}
    codes = {code for _, _, code in found}
    assert {"OK", "Canceled", "InvalidArgument", "Unavailable", "DeadlineExceeded"} <= codes
    assert len(codes) == len(grpc.StatusCode)
    assert found == {(*method, code) for method, code in product(methods, codes)}
    assert at_start(HANDLED, grpc_code="DataLoss") == 0


def test_calls_are_counted_by_method_and_status(watched: Sidecar, calls: SessionCalls) -> None:
    """Each call is counted once, with its status as Go's libraries write it, and once in the time it took."""
    grown = Difference(watched)
    for _ in range(3):
        calls.get_notes()
    calls.append_turns(2)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        calls.get_notes(observer="not a name")
    with refused(grpc.StatusCode.ABORTED):
        calls.append_turns(1, expected_turn_count=7)
    with refused(grpc.StatusCode.NOT_FOUND):
        calls.fail_run("nobody-began-it")
    expected = {
        ("unary", NOTES, "GetNotes", "OK"): 3,
        ("unary", NOTES, "GetNotes", "InvalidArgument"): 1,
        ("unary", "session_notes.v1.SessionState", "AppendTurns", "OK"): 1,
        ("unary", "session_notes.v1.SessionState", "AppendTurns", "Aborted"): 1,
        ("unary", NOTES, "FailRun", "NotFound"): 1,
    }
    assert grown.series(HANDLED, "grpc_type", "grpc_service", "grpc_method", "grpc_code") == expected
    by_method = {("GetNotes",): 4, ("AppendTurns",): 2, ("FailRun",): 1}
    assert grown.series("grpc_server_started_total", "grpc_method") == by_method
    assert grown.series("grpc_server_handling_seconds_count", "grpc_method") == by_method
    assert grown.series("session_notes_calls_refused_total", "reason") == {
        ("INVALID_FIELD",): 1,
        ("TURN_COUNT_MISMATCH",): 1,
        ("RUN_NOT_FOUND",): 1,
    }
    # What was refused before it came to the store is none of its operations; what the store refused is.
    assert grown.series("session_notes_store_operation_seconds_count", "operation") == {
        ("get_notes",): 3,
        ("append_turns",): 2,
        ("fail_run",): 1,
    }
    took = grown.series("grpc_server_handling_seconds_sum", "grpc_method")[("GetNotes",)]
    in_store = grown.series("session_notes_store_operation_seconds_sum", "operation")[("get_notes",)]
    assert 0 < in_store < took < 10


def test_readings_are_counted_as_they_were_answered(watched: Sidecar, calls: SessionCalls) -> None:
    """Reads by readiness and freshness, with the notes' age and drift; each entry of a batch is a reading."""
    grown = Difference(watched)
    calls.get_notes()
    calls.begin_run("run-1", observed_turn=3)
    calls.get_notes()
    calls.write_notes("run-1", "said")
    calls.get_notes()
    calls.get_notes(current_turn=7, max_turns_behind=2)
    calls.begin_run("run-2", observer="other")
    calls.fail_run("run-2", observer="other")
    calls.get_notes(observer="other")
    one = api.GetNotesRequest(session_id=calls.id, current_turn=3, max_turns_behind=2)
    calls.notes.BatchGetNotes(api.BatchGetNotesRequest(requests=[one, one]), timeout=10)
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        calls.get_notes(observer="not a name")
    assert grown.series("session_notes_reads_total", "readiness", "fresh") == {
        ("never_run", "false"): 1,
        ("running", "false"): 1,
        ("failed", "false"): 1,
        ("ready", "true"): 3,
        ("ready", "false"): 1,
    }
    assert grown.series("session_notes_read_age_seconds_count") == {(): 4}
    assert 0 < grown.series("session_notes_read_age_seconds_sum")[()] < 40
    # One reading knew of no current turn.
    assert grown.series("session_notes_read_turns_behind_count") == {(): 3}
    assert grown.series("session_notes_read_turns_behind_sum") == {(): 4}
    assert grown.series("session_notes_read_turns_behind_bucket", "le") == {
        **{(bound,): 2 for bound in ("0.0", "1.0", "2.0", "3.0")},
        **{(bound,): 3 for bound in ("5.0", "8.0", "13.0", "20.0", "50.0", "100.0", "+Inf")},
    }


def test_writes_and_runs_are_counted_by_outcome(watched: Sidecar, calls: SessionCalls) -> None:
    """Writes by outcome; runs begun and ended here, and those at work: a retry is none, a duplicate ends nothing."""
    at_work = scrape(watched)("session_notes_runs_at_work")
    grown = Difference(watched)
    for run_id in ("run-1", "run-2", "run-3", "run-4", "run-4"):
        calls.begin_run(run_id)
    assert scrape(watched)("session_notes_runs_at_work") == at_work + 4
    calls.write_notes("run-2", "said")
    calls.write_notes("run-2", "said")
    calls.write_notes("run-1", "too late")
    calls.fail_run("run-3", reason=f"a {CANARY}")
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        calls.write_notes("run-2", "something else")
    assert scrape(watched)("session_notes_runs_at_work") == at_work + 1
    assert calls.begin_run("run-5", only_if_idle=True).started is False
    # Its session is gone, and it is told so.
    calls.state.DeleteSession(DeleteSessionRequest(session_id=calls.id), timeout=10)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        calls.write_notes("run-4", "said")
    assert scrape(watched)("session_notes_runs_at_work") == at_work
    assert grown.series("session_notes_writes_total", "outcome") == {
        ("accepted",): 1,
        ("duplicate",): 1,
        ("superseded",): 1,
    }
    assert grown.series("session_notes_runs_begun_total") == {(): 4}
    assert grown.series("session_notes_runs_ended_total", "how") == {
        ("written",): 1,
        ("superseded",): 1,
        ("failed",): 1,
    }


def test_a_run_is_at_work_until_its_lease_is_over(watched: Sidecar, calls: SessionCalls) -> None:
    """A run that nobody ends is at work for as long as its lease, and not a moment longer."""
    at_work = scrape(watched)("session_notes_runs_at_work")
    calls.begin_run("run-1", lease=Duration(nanos=300_000_000))
    assert scrape(watched)("session_notes_runs_at_work") == at_work + 1
    eventually(lambda: scrape(watched)("session_notes_runs_at_work") == at_work)


def test_health_and_reflection_are_counted(watched: Sidecar) -> None:
    """gRPC's own services are counted as what they are; a Watch is in flight for as long as it is held."""
    grown = Difference(watched)
    with new_channel(watched.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        with refused(grpc.StatusCode.NOT_FOUND):
            health.Check(health_pb2.HealthCheckRequest(service="other"), timeout=5)
        watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        next(watch)
        assert scrape(watched)("session_notes_calls_in_flight", grpc_type="server_stream") == 1
        watch.cancel()
        eventually(lambda: scrape(watched)("session_notes_calls_in_flight", grpc_type="server_stream") == 0)
    assert grown.series(HANDLED, "grpc_type", "grpc_method", "grpc_code") == {
        ("unary", "Check", "OK"): 1,
        ("unary", "Check", "NotFound"): 1,
        ("server_stream", "Watch", "Canceled"): 1,
    }


def test_unknown_methods_are_one_series(watched: Sidecar) -> None:
    """Whatever methods a caller makes up, they are one series: a caller cannot make the metrics grow."""
    names = len(scrape(watched).samples)
    grown = Difference(watched)
    with new_channel(watched.target) as channel:
        for number in range(20):
            with refused(grpc.StatusCode.UNIMPLEMENTED):
                channel.unary_unary(f"/{NOTES}/{CANARY}{number}", bytes)(b"", timeout=5)
    assert grown.series(HANDLED, "grpc_service", "grpc_method", "grpc_code") == {
        ("unknown", "unknown", "Unimplemented"): 20
    }
    assert len(scrape(watched).samples) == names


def test_nothing_of_users_is_in_them(watched: Sidecar) -> None:
    """No id, no name that a caller chose, nothing that was said is in the metrics."""
    with new_channel(watched.target) as channel:
        calls = SessionCalls(channel, f"{CANARY}-{new_session_id()}")
        calls.append_turns(1)
        calls.begin_run(f"{CANARY}-run", observer=f"{CANARY}-observer")
        calls.write_notes(f"{CANARY}-run", "said", observer=f"{CANARY}-observer")
        calls.get_notes(observer=f"{CANARY}-observer")
    assert "canary" not in scrape(watched).text


def test_a_caller_that_left_is_no_error(session_id: str) -> None:
    """A call whose caller's deadline passed is Canceled; while it waits it is in flight."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=ON) as sidecar:
        with new_channel(sidecar.target) as channel, ThreadPoolExecutor() as pool:
            calls = SessionCalls(channel, session_id)
            calls.get_notes()
            store.pause()
            left = pool.submit(calls.get_notes, timeout=1)
            eventually(lambda: scrape(sidecar)("session_notes_calls_in_flight", grpc_type="unary") == 1)
            with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
                left.result()
            eventually(lambda: scrape(sidecar)("session_notes_calls_in_flight", grpc_type="unary") == 0)
            store.resume()
        ends = scrape(sidecar).series(HANDLED, "grpc_method", "grpc_code")
        assert {end: count for end, count in ends.items() if end[0] == "GetNotes"} == {
            ("GetNotes", "OK"): 1,
            ("GetNotes", "Canceled"): 1,
        }


def test_the_store_is_up_or_not(session_id: str) -> None:
    """Whether Redis answers is 1 or 0, down and up again; what it did not answer is counted."""
    with StoreServer(valkey_program()) as store, Sidecar(store.url, flags=ON) as sidecar:
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
    """Calls that are refused because there are too many are counted as that."""
    with (
        StoreServer(valkey_program()) as store,
        Sidecar(store.url, flags=[*ON, "--max-concurrent-calls", "3"]) as sidecar,
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


def test_the_process_is_told_of(watched: Sidecar) -> None:
    """What it is, what it takes, and how late its event loop is."""
    eventually(lambda: scrape(watched)("session_notes_event_loop_lag_seconds_count") > 1)
    now = scrape(watched)
    assert now("session_notes_build_info") == 1
    assert now("process_resident_memory_bytes") > 1e6
    assert now("process_cpu_seconds_total") > 0
    assert now("python_gc_collections_total", generation="0") >= 0


def threads(sidecar: Sidecar) -> int:
    """How many threads its process has."""
    assert sidecar.process is not None
    return len(list(Path(f"/proc/{sidecar.process.pid}/task").iterdir()))


def test_strange_scrapers_hurt_nobody(watched: Sidecar, calls: SessionCalls) -> None:
    """Connections that say nothing, garbage, or that do not read: scrapes and calls go on, and the log stays calm."""
    where, log, few = address(watched), watched.log, threads(watched) + 10
    with ExitStack() as stack:
        for number in range(60):
            peer = stack.enter_context(socket.create_connection(where, timeout=10))
            if number % 3 == 1:
                peer.sendall(b"\x16\x03\x01\x00\xff" * 1000 + b"\r\n\r\n")
            elif number % 3 == 2:
                peer.sendall(b"GET /metrics HTTP/1.1\r\nhost: a\r\n")
        before = time.monotonic()
        assert scrape(watched)("session_notes_store_up") == 1
        for _ in range(50):
            calls.get_notes(timeout=2)
        assert time.monotonic() - before < 5
        assert threads(watched) <= few
    assert scrape(watched)("session_notes_store_up") == 1
    assert watched.log == log


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shares out a port's connections")
def test_workers_add_up(session_id: str) -> None:
    """With several workers one port tells of all of them together, also of what one counted that was killed."""
    with sidecar_with_workers(flags=ON) as sidecar:
        with channel_per_worker(sidecar) as each:
            for pid, count in zip(each, (3, 5), strict=True):
                for _ in range(count):
                    SessionCalls(each[pid], session_id).get_notes()
            now = scrape(sidecar)
            assert now(HANDLED, grpc_method="GetNotes", grpc_code="OK") == 8
            assert now("session_notes_reads_total", readiness="never_run") == 8
            assert now("session_notes_store_up") == 1
            processes = {one.labels["process"] for one in now.samples if one.name == "process_open_fds"}
            assert processes == {"supervisor", "worker 1", "worker 2"}
            # Those of the process that answers alone would say nothing of the others.
            assert "python_gc" not in now.text
        victim = workers(sidecar)[0]
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: "serves again" in sidecar.log)
        with channel_per_worker(sidecar) as each:
            for channel in each.values():
                SessionCalls(channel, session_id).get_notes()
        now = scrape(sidecar)
        assert now(HANDLED, grpc_method="GetNotes", grpc_code="OK") == 10
        assert now("session_notes_calls_in_flight") == 0


@pytest.mark.parametrize("flags", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_an_address_that_is_taken(flags: list[str]) -> None:
    """An address for metrics that is taken is an error at the start, as any other."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        text = assert_refused(taken, ["--metrics-listen", taken, *flags])
        assert "Choose another with --metrics-listen" in text


def test_head_is_answered(watched: Sidecar) -> None:
    """HEAD, as monitors of a port send it, is answered as GET is, without the body."""
    host, port = address(watched)
    for method in ("GET", "HEAD"):
        request = urllib.request.Request(f"http://{host}:{port}/metrics", method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert bool(answer.read()) == (method == "GET")


def test_openmetrics_is_spoken_too(watched: Sidecar) -> None:
    """A scraper that asks for OpenMetrics gets that."""
    host, port = address(watched)
    request = urllib.request.Request(
        f"http://{host}:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        names = {family.name for family in text_string_to_metric_families(answer.read().decode())}  # type: ignore[no-untyped-call]
    assert {"grpc_server_handled", "session_notes_reads", "session_notes_store_up"} <= names
