"""Fixtures for all tests: a real sidecar on a real store, and a session per test."""

import os
import random
import re
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

# Set before grpc is imported, as in `session_notes_tools/__main__.py`, because tests start programs as well.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import pytest
from session_notes_server.settings import EngineName

from tests.stores import KINDS, Store, StoreServer, redis_program, valkey_cluster
from tests.support import DEFAULT_PREFIX, SessionCalls, Sidecar, leaks, new_channel, new_session_id


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--redis-url", help="run against this store instead of stores started by the tests")
    parser.addoption("--engine", choices=["native", "grpcio"], default="native", help="the engine of all sidecars")
    parser.addoption(
        "--soak", action="store_true", help="run tests/faults at full length, for up to an hour, and more random calls"
    )
    parser.addoption(
        "--seed", type=int, help="seed of soak, fuzz and other random tests, to repeat a run (default: random)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the engine, and the seed in the main process, so that all xdist workers share it."""
    # A shell script starts background jobs with SIGINT ignored, and the processes of tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Likewise nohup and SIGHUP, which this process still ignores: a program that it starts does not inherit a handler.
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    os.environ["SESSION_NOTES_ENGINE"] = config.option.engine
    if config.option.seed is None:
        config.option.seed = random.randrange(1_000_000)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print the engine and the seed, and whether a store is missing."""
    missing = [] if redis_program() else ["no redis-server on PATH: tests that need it are skipped"]
    return [f"engine: --engine {config.option.engine}", f"random seed: --seed {config.option.seed}", *missing]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of each kind of store on one worker, so that each store is started once.

    Marks would be enough, but `--dist loadgroup` groups nothing since pytest 9.2 (pytest-dev/pytest-xdist#1386).
    """
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler.loadgroup import LoadGroupScheduling  # type: ignore[import-untyped]

    class ByStore(LoadGroupScheduling):  # type: ignore[misc]
        """Scheduler that groups tests by the kind of store in their ids."""

        def _split_scope(self, nodeid: str) -> Any:
            kind = re.search(rf"[\[-]({'|'.join(KINDS)})[\]-]", nodeid)
            return kind[1] if kind else super()._split_scope(nodeid)

    return ByStore(config, log)


@pytest.fixture(scope="session")
def engine(request: pytest.FixtureRequest) -> EngineName:
    """The engine of all sidecars, chosen by the option --engine."""
    return EngineName(request.config.option.engine)


@pytest.fixture(scope="session")
def sidecar_over() -> Iterator[Callable[[str], Sidecar]]:
    """Return a function that starts one sidecar per kind of store, on first use."""
    running: dict[str, Sidecar] = {}
    with ExitStack() as stack:

        def start(kind: str) -> Sidecar:
            if kind not in running:
                if kind == "embedded":
                    sidecar = Sidecar()
                elif kind == "redis":
                    program = redis_program()
                    if program is None:
                        pytest.skip("no redis-server on PATH")
                    sidecar = Sidecar(stack.enter_context(StoreServer(program)).url)
                elif kind == "cluster":
                    sidecar = Sidecar(stack.enter_context(valkey_cluster()))
                else:
                    # A developer's own store: use a separate prefix, and remove every key at the end.
                    sidecar = Sidecar(kind, prefix=f"session-notes-test-{uuid.uuid4().hex}")
                    stack.callback(sidecar.store.close)
                    stack.callback(sidecar.store.forget)
                running[kind] = stack.enter_context(sidecar)
            return running[kind]

        yield start


@pytest.fixture(scope="session")
def sidecar(request: pytest.FixtureRequest, sidecar_over: Callable[[str], Sidecar]) -> Sidecar:
    """A running sidecar, shared by the tests of a worker, on the embedded store unless a conftest parametrizes it."""
    given = request.config.getoption("--redis-url")
    return sidecar_over(given or getattr(request, "param", "embedded"))


@pytest.fixture(scope="session")
def channel(sidecar: Sidecar) -> Iterator[grpc.Channel]:
    """A channel to the shared sidecar."""
    with new_channel(sidecar.target) as channel:
        yield channel


@pytest.fixture
def store(sidecar: Sidecar) -> Store:
    """Direct access to the data of the shared sidecar."""
    assert sidecar.store.prefix.startswith(DEFAULT_PREFIX)
    return sidecar.store


@pytest.fixture
def session_id() -> str:
    """A new session id."""
    return new_session_id()


@pytest.fixture
def session(channel: grpc.Channel, session_id: str) -> SessionCalls:
    """Calls of both services on a new session."""
    return SessionCalls(channel, session_id)


@pytest.fixture(autouse=True)
def _every_key_expires(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a key without a TTL in the shared store (rule 8 of the contract: everything expires).

    A sidecar started by a test performs the same check at the end of its `with` block.
    """
    if "sidecar" not in request.fixturenames:
        yield
        return
    store: Store = request.getfixturevalue("sidecar").store
    yield
    if forever := store.without_ttl():
        for key in forever:
            store.client.delete(key)
        pytest.fail(f"these keys never expire: {forever}")


@pytest.fixture(autouse=True)
def _no_client_logs_a_canary(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which a client in this process logs user data."""
    yield
    leaked = [line for record in caplog.get_records("call") for line in leaks(record.getMessage())]
    assert not leaked, f"a log holds user data, an id or a secret: {leaked[:3]}"
