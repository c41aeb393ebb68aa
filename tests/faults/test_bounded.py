"""GetNotes is bounded: whatever the store does, a primary has its answer within 100 ms, be it that there is none.

Measured at the caller, over a warm connection, with the sidecar's own default limits. The machine is small and noisy:
the median of a row of answers must keep the 100 ms (150 ms where the callers are a crowd of threads in this very
process), the worst of it 250 ms, in one row of three. A limit that is not there breaks all three.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from session_notes.v1 import session_notes_pb2 as notes_api
from session_notes.v1 import session_state_pb2 as state_api
from session_notes.v1.session_notes_pb2 import WriteNotesRequest
from session_notes_server.store.redis.connection import WINDOW

from tests.faults.proxy import Proxy
from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, eventually, new_channel, new_session_id, notes, status_of

MEDIAN_SECONDS, CROWD_SECONDS, WORST_SECONDS = 0.100, 0.150, 0.250
NOT_SERVING = 2
DEFAULTS = ("--notes-timeout", "80ms", "--store-timeout", "1s")


def in_time(row: Callable[[], list[float]], median: float = MEDIAN_SECONDS) -> None:
    """Asserts that a row of answers comes in time: one of three rows, for the machine may be busy elsewhere."""
    rows = []
    for _ in range(3):
        rows.append(sorted(row()))
        if statistics.median(rows[-1]) <= median and rows[-1][-1] <= WORST_SECONDS:
            return
    raise AssertionError(f"not in time: {rows}")


class Bench:
    """A sidecar with its default limits, its store behind a proxy, a session with notes, and a warm connection."""

    def __init__(self, server: StoreServer, proxy: Proxy, sidecar: Sidecar, channel: grpc.Channel) -> None:
        self.server, self.proxy, self.sidecar = server, proxy, sidecar
        self.session = SessionCalls(channel, new_session_id())
        self.session.write_notes("run-1", "there")
        self.session.get_notes()

    def ask(self, times: int, expected: grpc.StatusCode) -> None:
        """GetNotes in a row: each ends as expected, and in time."""

        def row() -> list[float]:
            return [self.time(self.session, expected) for _ in range(times)]

        in_time(row)

    def time(self, session: SessionCalls, expected: grpc.StatusCode) -> float:
        """How long one GetNotes takes to end as expected."""
        began = time.perf_counter()
        assert status_of(session.get_notes) == expected
        return time.perf_counter() - began

    def heal(self) -> None:
        """Ends all faults, and waits until the sidecar has noticed."""
        self.server.resume()
        self.proxy.black_hole = False
        self.proxy.hold(b"")
        self.proxy.refuse()
        self.proxy.accept()
        for call in (self.session.get_notes, self.session.begin_run):
            eventually(lambda call=call: status_of(call) == grpc.StatusCode.OK)  # type: ignore[misc]
        self.sidecar.wait_until_serving()


@pytest.fixture(scope="module")
def shared_bench() -> Iterator[Bench]:
    with (
        StoreServer(valkey_program()) as server,
        Proxy(server.port) as proxy,
        Sidecar(proxy.url, flags=DEFAULTS) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        yield Bench(server, proxy, sidecar, channel)


@pytest.fixture
def bench(shared_bench: Bench) -> Iterator[Bench]:
    """The shared one, whole again afterwards."""
    shared_bench.heal()
    yield shared_bench
    shared_bench.heal()


@contextmanager
def broken(bench: Bench, fault: str) -> Iterator[None]:
    """The store out of reach, in one of three ways."""
    if fault == "stopped":
        bench.server.pause()
    elif fault == "refused":
        bench.proxy.refuse()
    else:
        bench.proxy.black_hole = True
    yield


FAULTS = ("stopped", "refused", "black-holed")


@pytest.mark.parametrize("fault", FAULTS)
def test_answers_in_time(bench: Bench, fault: str, effort: Callable[[int, int], int]) -> None:
    """One primary asks again and again while the store is out of reach: UNAVAILABLE in time, then OK again."""
    with broken(bench, fault):
        bench.ask(effort(12, 500), grpc.StatusCode.UNAVAILABLE)
        bench.server.resume()
    bench.heal()
    bench.ask(20, grpc.StatusCode.OK)


@pytest.mark.parametrize("fault", ["stopped", "black-holed"])
def test_the_first_to_meet_an_outage(bench: Bench, fault: str, effort: Callable[[int, int], int]) -> None:
    """Whoever asks first when the store falls silent, and knows nothing of it yet, has its answer in time as well."""

    def first() -> float:
        with broken(bench, fault):
            took = bench.time(bench.session, grpc.StatusCode.UNAVAILABLE)
        bench.heal()
        return took

    in_time(lambda: [first() for _ in range(effort(3, 50))])


@pytest.mark.parametrize("fault", FAULTS)
def test_many_primaries_at_once(bench: Bench, fault: str) -> None:
    """30 primaries ask at the same time while the store is out of reach: each has its answer in time."""

    def ask(_: int) -> float:
        return bench.time(bench.session, grpc.StatusCode.UNAVAILABLE)

    with ThreadPoolExecutor(30) as pool, broken(bench, fault):
        in_time(lambda: list(pool.map(ask, range(30))), CROWD_SECONDS)


def test_a_known_outage_is_answered_at_once(bench: Bench) -> None:
    """While one call tries a store known to be silent, all others hear UNAVAILABLE at once: no crowd waits."""
    bench.proxy.black_hole = True
    bench.time(bench.session, grpc.StatusCode.UNAVAILABLE)
    bench.time(bench.session, grpc.StatusCode.UNAVAILABLE)

    def row() -> list[float]:
        with ThreadPoolExecutor(8) as pool:
            return sorted(pool.map(lambda _: bench.time(bench.session, grpc.StatusCode.UNAVAILABLE), range(8)))

    in_time(row, median=0.050)


def test_a_connection_that_is_dead_is_given_up(bench: Bench) -> None:
    """One connection goes nowhere any more, and nobody says so; new ones are well: GetNotes is back within 2 s."""
    bench.proxy.hold(bench.session.id.encode())
    assert status_of(bench.session.get_notes) == grpc.StatusCode.UNAVAILABLE
    bench.proxy.hold(b"")
    eventually(lambda: status_of(bench.session.get_notes) == grpc.StatusCode.OK, 2)


def test_connections_reset_at_rest(bench: Bench) -> None:
    """A store that restarts behind a proxy resets all connections: the next calls are answered, all of them."""

    def ask(_: int) -> grpc.StatusCode:
        return status_of(bench.session.get_notes)

    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(ask, range(64))) == {grpc.StatusCode.OK}
        bench.proxy.refuse()
        bench.proxy.accept()
        bench.sidecar.wait_until_serving()
        assert set(pool.map(ask, range(64))) == {grpc.StatusCode.OK}


def test_a_burst_is_not_with_the_store_at_once(bench: Bench) -> None:
    """Of what a hundred observers write, the store has a part at a time, so that it answers a primary in between."""

    def sent() -> int:
        return sum(exchange.request.count(b"burst-") for exchange in list(bench.proxy.exchanges))

    with ThreadPoolExecutor(100) as pool:
        bench.server.pause()
        calls = [pool.submit(bench.session.write_notes, f"burst-{number}", "x") for number in range(100)]
        eventually(lambda: sent() >= WINDOW)
        # Which takes a while, in which the others have come, too.
        assert status_of(bench.session.get_notes) == grpc.StatusCode.UNAVAILABLE
        assert sent() == WINDOW
        bench.server.resume()
        assert len({call.result().run.number for call in calls}) == 100


def test_a_queue_is_no_outage(bench: Bench) -> None:
    """A store that is slow, and answers all the time: all who wait are answered, after more than 80 ms.

    In one row of three, for the machine may itself be silent for so long.
    """
    sessions = [SessionCalls(bench.session.channel, new_session_id()) for _ in range(8)]
    for session in sessions:
        session.write_notes("run-1", "x" * 240_000)
    bench.proxy.delay_seconds = 0.015  # Each 64 KiB of an answer.
    rows = []
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(3):
                began = time.perf_counter()
                rows.append(set(pool.map(lambda session: status_of(session.get_notes), sessions)))
                assert time.perf_counter() - began > 0.08
    finally:
        bench.proxy.delay_seconds = 0.0
    assert {grpc.StatusCode.OK} in rows, rows


def stuck_writers(bench: Bench, count: int = 100) -> list[Any]:
    """Writers on the same channel as the primary, who will hear nothing for a while."""
    writes: list[Any] = []
    for number in range(count):
        request = WriteNotesRequest(session_id=bench.session.id, run_id=f"stuck-{number}", notes=notes("stuck"))
        writes.append(bench.session.notes.WriteNotes.future(request, timeout=30))
    return writes


def test_a_hundred_stuck_writers_and_a_stopped_store(bench: Bench) -> None:
    """100 writers stuck at a stopped store: a primary hears UNAVAILABLE in time."""
    bench.server.pause()
    writes = stuck_writers(bench)
    bench.ask(8, grpc.StatusCode.UNAVAILABLE)
    assert not all(write.done() for write in writes)
    bench.heal()
    eventually(lambda: all(write.done() for write in writes), 30)


def test_a_hundred_stuck_writers_hold_no_primary_up(bench: Bench) -> None:
    """100 writers whose connections are dead, the store itself well: a primary gets its notes as if nothing were."""
    bench.proxy.hold(b"stuck")
    before = len(bench.proxy.times_of(b"stuck"))
    writes = stuck_writers(bench)
    eventually(lambda: len(bench.proxy.times_of(b"stuck")) > before, every=0.001)
    bench.ask(20, grpc.StatusCode.OK)
    assert not [(write.code(), write.details()) for write in writes if write.done()]
    bench.heal()
    eventually(lambda: all(write.done() for write in writes), 30)


def test_a_reply_that_is_lost_among_others(bench: Bench) -> None:
    """One primary's reply is lost while others' are not: it, too, has its answer in time."""
    stopped = threading.Event()

    def others() -> None:
        while not stopped.is_set():
            status_of(bench.session.get_notes)

    def row() -> list[float]:
        bench.proxy.lose_reply(unlucky.id.encode())
        return [bench.time(unlucky, grpc.StatusCode.UNAVAILABLE)]

    unlucky = SessionCalls(bench.session.channel, new_session_id())
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(others)
        try:
            in_time(row)
        finally:
            stopped.set()
        running.result()


class Crowd:
    """Calls for many sessions at once, which share one runner with all writes."""

    def __init__(self, bench: Bench, rpc: str) -> None:
        self._session, self._rpc = bench.session, rpc

    def ask(self, _: int = 0) -> grpc.StatusCode:
        """How one call ends."""
        if self._rpc == "batch":
            one = notes_api.GetNotesRequest(session_id=self._session.id)
            batch = notes_api.BatchGetNotesRequest(requests=[one])
            return status_of(lambda: self._session.notes.BatchGetNotes(batch, timeout=5))
        listing = state_api.ListSessionsRequest()
        return status_of(lambda: self._session.state.ListSessions(listing, timeout=5))

    def ends(self, callers: int, calls: int) -> set[grpc.StatusCode]:
        """How many calls end, so many at a time."""
        with ThreadPoolExecutor(callers) as pool:
            return set(pool.map(self.ask, range(calls)))

    def meet_an_outage(self) -> None:
        """More calls than there are places: those that wait for one learn that the store is silent."""
        assert self.ends(80, 80) == {grpc.StatusCode.UNAVAILABLE}


@pytest.mark.parametrize("rpc", ["batch", "sessions"])
def test_after_an_outage_all_are_let_in_again(bench: Bench, rpc: str) -> None:
    """A store that was silent, and health says SERVING again: calls are answered, however many at once."""
    crowd = Crowd(bench, rpc)
    bench.proxy.black_hole = True
    crowd.meet_an_outage()
    eventually(lambda: bench.sidecar.health() == NOT_SERVING)
    bench.proxy.black_hole = False
    bench.sidecar.wait_until_serving()
    assert crowd.ends(16, 64) == {grpc.StatusCode.OK}
