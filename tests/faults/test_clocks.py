"""Ages are honest: a sidecar whose clock is hours off tells the same ages as one whose clock is right."""

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
    """Three on one store: one with the right clock, one 2 h ahead, one 2 h behind."""
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


def test_the_clocks_are_really_off(sidecars: dict[int, Sidecar]) -> None:
    """The control: each sidecar's own log has the time of its shifted clock."""
    logged = {
        shift: datetime.strptime(sidecar.log[:19], "%Y-%m-%d %H:%M:%S") - timedelta(seconds=shift)
        for shift, sidecar in sidecars.items()
    }
    assert max(logged.values()) - min(logged.values()) < timedelta(minutes=5)


@pytest.mark.parametrize("writer", SHIFTS)
def test_all_tell_the_same_ages(sidecars: dict[int, Sidecar], writer: int) -> None:
    """Notes begun and written through any of them: through each, ages from the store's clock alone, never negative."""
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
            answer = session.get_notes(max_age=Duration(seconds=60))
            most = store.time_ms() - written.ToMilliseconds() + 1
            ages.append(answer.age.ToMilliseconds())
            assert 0 <= answer.age.ToMilliseconds() <= most
            assert answer.age.ToMicroseconds() <= answer.snapshot_age.ToMicroseconds() <= most * 1000 + 60_000_000
            assert (answer.ready, answer.fresh, answer.write_time) == (True, True, written)
            assert 0 < answer.expires_in.ToMilliseconds() <= 600_000
        assert ages == sorted(ages), "asked one after the other, ages only grow"
        for session in sessions.values():
            found = session.get_session()
            assert before - 1 <= found.update_time.ToMilliseconds() <= store.time_ms() + 1
            assert found.expires_in.ToTimedelta() <= timedelta(hours=24)
        expiries = store.expiries_ms(session_id)
        assert all(abs(at - before - 86_400_000) < 60_000 for at in expiries.values())
