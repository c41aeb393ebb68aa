"""Fixtures for all tests: a real sidecar over a real store, and a session nobody else uses."""

import os
import random
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

# As our own programs do before they import grpc (`session_notes_tools/__main__.py`): tests start programs, too.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import pytest

from tests.stores import KINDS, Store, StoreServer, redis_program, valkey_cluster
from tests.support import DEFAULT_PREFIX, SessionCalls, Sidecar, leaks, new_channel, new_session_id


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redis-url", help="run against this store instead of the ones the tests start themselves")
    parser.addoption("--soak", action="store_true", help="tests/faults at full length: much of an hour")
    parser.addoption("--seed", type=int, help="what chance in soak and fuzz starts from, to repeat a run (else random)")


def pytest_configure(config: pytest.Config) -> None:
    """Draws the seed here, so that all workers of xdist have the same."""
    if config.option.seed is None:
        config.option.seed = random.randrange(1_000_000)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The seed; and says it up front where a store is missing."""
    missing = [] if redis_program() else ["no redis-server on PATH: what needs one is skipped"]
    return [f"chance starts from --seed {config.option.seed}", *missing]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keeps the tests of one kind of store on one worker, so that each kind is started once.

    Marks would say so, but since pytest 9.2 `--dist loadgroup` groups nothing (pytest-dev/pytest-xdist#1386).
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler.loadgroup import LoadGroupScheduling  # type: ignore[import-untyped]

    class ByStore(LoadGroupScheduling):  # type: ignore[misc]
        """As loadgroup, the group being the kind of store in a test's id."""

        def _split_scope(self, nodeid: str) -> Any:
            kind = re.search(rf"[\[-]({'|'.join(KINDS)})[\]-]", nodeid)
            return kind[1] if kind else super()._split_scope(nodeid)

    return ByStore(config, log)


@pytest.fixture(scope="session")
def sidecar_over() -> Iterator[Callable[[str], Sidecar]]:
    """Starts a sidecar over a kind of store at first use, and hands out the same one from then on."""
    running: dict[str, Sidecar] = {}
    with ExitStack() as stack:

        def start(kind: str) -> Sidecar:
            if kind not in running:
                if kind == "embedded":
                    sidecar = Sidecar()
                elif kind == "redis":
                    program = redis_program()
                    if program is None:
                        pytest.skip("there is no redis-server on PATH")
                    sidecar = Sidecar(stack.enter_context(StoreServer(program)).url)
                elif kind == "cluster":
                    sidecar = Sidecar(stack.enter_context(valkey_cluster()))
                else:
                    # Somebody's own store: stay apart from what else is in it, and leave nothing behind.
                    sidecar = Sidecar(kind, prefix=f"session-notes-test-{uuid.uuid4().hex}")
                    stack.callback(sidecar.store.close)
                    stack.callback(sidecar.store.forget)
                running[kind] = stack.enter_context(sidecar)
            return running[kind]

        yield start


@pytest.fixture(scope="session")
def sidecar(request: pytest.FixtureRequest, sidecar_over: Callable[[str], Sidecar]) -> Sidecar:
    """A running sidecar, shared by all tests of a worker; the embedded store unless a folder says otherwise."""
    given = request.config.getoption("--redis-url")
    return sidecar_over(given or getattr(request, "param", "embedded"))


@pytest.fixture(scope="session")
def channel(sidecar: Sidecar) -> Iterator[grpc.Channel]:
    """A connection to the shared sidecar."""
    with new_channel(sidecar.target) as channel:
        yield channel


@pytest.fixture
def store(sidecar: Sidecar) -> Store:
    """A look past the shared sidecar at the data itself."""
    assert sidecar.store.prefix.startswith(DEFAULT_PREFIX)
    return sidecar.store


@pytest.fixture
def session_id() -> str:
    """A session id nobody has used."""
    return new_session_id()


@pytest.fixture
def session(channel: grpc.Channel, session_id: str) -> SessionCalls:
    """Both services' calls, on a session of this test's own."""
    return SessionCalls(channel, session_id)


@pytest.fixture(autouse=True)
def _every_key_expires(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything expires (DESIGN, rule 8): fails a test after which the shared store holds a key without a TTL.

    A sidecar that a test starts for itself is looked at in the same way when its `with` block ends.
    """
    if "sidecar" not in request.fixturenames:
        yield
        return
    store: Store = request.getfixturevalue("sidecar").store
    yield
    if forever := store.without_ttl():
        for key in forever:
            store.client.delete(key)
        pytest.fail(f"these keys would stay for ever: {forever}")


@pytest.fixture(autouse=True)
def _no_client_logs_a_canary(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What our clients log in this process holds no more of what was said than a sidecar's log does."""
    yield
    leaked = [line for record in caplog.get_records("call") for line in leaks(record.getMessage())]
    assert not leaked, f"a log holds what somebody said, an id or a secret: {leaked[:3]}"
