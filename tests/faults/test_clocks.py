"""Ages come from the store's clock: sidecars whose own clocks are hours off return the same ages."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from tests.stores import StoreServer, valkey_program
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id

SHIFTS = (0, 7200, -7200)


@pytest.fixture(scope="module")
def sidecars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Sidecar]]:
    """Sidecars on one store with the right clock, 2 h ahead and 2 h behind, by shift."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) on PATH: the sidecar's clock cannot be shifted")
    shim = tmp_path_factory.mktemp("shim") / "shift_clock.so"
    source = Path(__file__).with_name("shift_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O", "-o", str(shim), str(source), "-ldl"], check=True)
    with StoreServer(valkey_program()) as server, ExitStack() as stack:
        yield {
            shift: stack.enter_context(
                Sidecar(server.url, env={"LD_PRELOAD": str(shim), "CLOCK_SHIFT": str(shift), "TZ": "UTC"})
            )
            for shift in SHIFTS
        }


def test_the_clocks_are_shifted(sidecars: dict[int, Sidecar]) -> None:
    """The control: the log of each sidecar has the times of its shifted clock."""
    logged = {
        shift: datetime.strptime(sidecar.log[:19], "%Y-%m-%d %H:%M:%S") - timedelta(seconds=shift)
        for shift, sidecar in sidecars.items()
    }
    assert max(logged.values()) - min(logged.values()) < timedelta(minutes=5)


@pytest.mark.parametrize("writer", SHIFTS)
def test_ages_ignore_the_sidecars_clock(sidecars: dict[int, Sidecar], writer: int) -> None:
    """Notes written through any sidecar have the same ages through each, by the store's clock and never negative."""
    session_id = new_session_id()
    store = sidecars[0].store
    with ExitStack() as stack:
        sessions = {
            shift: SessionCalls(stack.enter_context(new_channel(sidecar.target)), session_id)
            for shift, sidecar in sidecars.items()
        }
        before = store.time_ms()
        sessions[writer].begin_run("run-1")
        written = sessions[writer].write_notes("run-1", ttl=Duration(seconds=600)).write_time
        assert before - 1 <= written.ToMilliseconds() <= store.time_ms() + 1
        ages = []
        for session in sessions.values():
            reading = session.get_notes(max_age=Duration(seconds=60))
            max_age_ms = store.time_ms() - written.ToMilliseconds() + 1
            ages.append(reading.age.ToMilliseconds())
            assert 0 <= reading.age.ToMilliseconds() <= max_age_ms
            assert (
                reading.age.ToMicroseconds() <= reading.snapshot_age.ToMicroseconds() <= max_age_ms * 1000 + 60_000_000
            )
            assert (reading.ready, reading.fresh, reading.write_time) == (True, True, written)
            assert 0 < reading.expires_in.ToMilliseconds() <= 600_000
        assert ages == sorted(ages), "an age fell from one call to the next"
        for session in sessions.values():
            stored = session.get_session()
            assert before - 1 <= stored.update_time.ToMilliseconds() <= store.time_ms() + 1
            assert stored.expires_in.ToTimedelta() <= timedelta(hours=24)
        expiries = store.expiries_ms(session_id)
        assert all(abs(at - before - 86_400_000) < 60_000 for at in expiries.values())
