"""Errors of the store: while one lasts, calls are UNAVAILABLE with a fixed text, never UNKNOWN or INTERNAL."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from session_notes.v1.session_notes_pb2 import ListDueSessionsRequest

from tests.faults.proxy import Proxy
from tests.stores import Store, StoreServer, free_port, valkey_program
from tests.support import Refusal, SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused

SERVING, NOT_SERVING = 1, 2
CANARY = "canary-7c1f"
STORE_WORDS = ("READONLY", "BUSY", "OOM", "MISCONF", "NOPERM", "LOADING", "NOSCRIPT", "EVALSHA", "127.0.0.1", "edis")


class Deployment:
    """A sidecar with a session on a separate store, and direct access to the store."""

    def __init__(self, server: StoreServer, sidecar: Sidecar, channel: grpc.Channel) -> None:
        self.server, self.sidecar = server, sidecar
        self.store = Store(server.url, sidecar.store.prefix)
        self.admin = self.store.client
        self.session = SessionCalls(channel, new_session_id())
        self.session.write_notes("run-0", CANARY)
        self.session.begin_run("run-renewed")
        self.session.append_turns(1)

    def calls(self) -> dict[str, Callable[[], object]]:
        """Return a call of every kind, writes first."""
        session, run = self.session, f"run-{CANARY}-{new_session_id()[-6:]}"
        return {
            "begin": lambda: session.begin_run(run),
            "write": lambda: session.write_notes(run, CANARY),
            "fail": lambda: session.fail_run("run-0-never", reason=CANARY),
            "renew": lambda: session.renew_run("run-renewed"),
            "append": lambda: session.append_turns(1),
            "update": lambda: session.update_session(set={CANARY: CANARY}),
            "notes": session.get_notes,
            "runs": session.list_runs,
            "session": session.get_session,
            "due": lambda: session.notes.ListDueSessions(ListDueSessionsRequest(), timeout=10),
        }

    def statuses(self) -> dict[str, grpc.StatusCode]:
        """Make a call of every kind, and return their statuses. No error text may contain details."""
        statuses: dict[str, grpc.StatusCode] = {}
        for name, call in self.calls().items():
            refusal = Refusal()
            try:
                call()
            except grpc.RpcError as error:
                refusal.read(error)
                assert not [word for word in (*STORE_WORDS, CANARY) if word in refusal.text], refusal.text
            assert refusal.code != grpc.StatusCode.UNAVAILABLE or refusal.retry_delay_seconds
            assert refusal.code != grpc.StatusCode.NOT_FOUND or name == "fail"
            statuses[name] = grpc.StatusCode.OK if refusal.code == grpc.StatusCode.NOT_FOUND else refusal.code
        return statuses

    def is_healthy(self) -> bool:
        """Return whether every kind of call is OK and health is SERVING."""
        return set(self.statuses().values()) == {grpc.StatusCode.OK} and self.sidecar.health() == SERVING


WRITES = {"begin", "write", "renew", "append", "update"}
READS = {"notes", "runs", "session", "due"}


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        deployment = Deployment(server, sidecar, channel)
        yield deployment
        deployment.store.close()
        assert CANARY not in sidecar.log
        assert "Traceback" not in sidecar.log


@contextmanager
def noscript(deployment: Deployment) -> Iterator[None]:
    deployment.admin.script_flush()
    yield


@contextmanager
def readonly(deployment: Deployment) -> Iterator[None]:
    deployment.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    yield
    deployment.admin.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def masterdown(deployment: Deployment) -> Iterator[None]:
    deployment.admin.config_set("replica-serve-stale-data", "no")
    deployment.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    yield
    deployment.admin.execute_command("REPLICAOF", "NO", "ONE")
    deployment.admin.config_set("replica-serve-stale-data", "yes")


@contextmanager
def busy(deployment: Deployment) -> Iterator[None]:
    deployment.admin.config_set("busy-reply-threshold", 1)

    def hang() -> None:
        with redis.Redis(port=deployment.server.port, socket_timeout=60) as client, suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    def is_busy() -> bool:
        try:
            deployment.admin.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        eventually(is_busy)
        yield
    finally:
        deployment.admin.script_kill()
        thread.join(10)
        deployment.admin.config_set("busy-reply-threshold", 5000)


@contextmanager
def oom(deployment: Deployment) -> Iterator[None]:
    deployment.admin.config_set("maxmemory", 1)
    yield
    deployment.admin.config_set("maxmemory", 0)


@contextmanager
def misconf(deployment: Deployment) -> Iterator[None]:
    """Make snapshots fail with a directory in place of their file."""

    def saved(status: str) -> bool:
        with suppress(redis.ResponseError):
            deployment.admin.bgsave()
        return bool(deployment.admin.info("persistence")["rdb_last_bgsave_status"] == status)

    obstacle = Path(deployment.admin.config_get("dir")["dir"]) / "dump.rdb"
    (obstacle / "full").mkdir(parents=True)
    deployment.admin.config_set("save", "3600 1")
    eventually(lambda: saved("err"))
    yield
    (obstacle / "full").rmdir()
    obstacle.rmdir()
    eventually(lambda: saved("ok"))
    deployment.admin.config_set("save", "")


@contextmanager
def noperm(deployment: Deployment) -> Iterator[None]:
    deployment.admin.acl_setuser("default", enabled=True, nopass=True, commands=["-evalsha", "-eval"], keys=["*"])
    yield
    deployment.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@pytest.mark.parametrize(
    ("fault", "refusing", "serving"),
    [
        (noscript, set[str](), True),
        (readonly, WRITES, False),
        (masterdown, WRITES | READS, False),
        (busy, WRITES | READS, False),
        (oom, WRITES, False),
        (misconf, WRITES, False),
        (noperm, WRITES | READS, False),
    ],
    ids=["NOSCRIPT", "READONLY", "MASTERDOWN", "BUSY", "OOM", "MISCONF", "NOPERM"],
)
def test_every_error_of_the_store_has_a_status(
    deployment: Deployment,
    fault: Callable[[Deployment], AbstractContextManager[None]],
    refusing: set[str],
    serving: bool,
) -> None:
    """While the store refuses commands, calls are OK or UNAVAILABLE with RetryInfo; afterwards all calls are OK."""
    with fault(deployment):
        statuses = deployment.statuses()
        assert set(statuses.values()) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, statuses
        assert {name for name, status in statuses.items() if status != grpc.StatusCode.OK} - {"fail"} == refusing
        eventually(lambda: deployment.sidecar.health() == (SERVING if serving else NOT_SERVING), 5)
    eventually(deployment.is_healthy, 10)


def test_a_loading_store_is_unavailable() -> None:
    """While a store is LOADING, calls are UNAVAILABLE and health NOT_SERVING; afterwards the data is complete."""
    flags = ("--appendonly", "yes", "--key-load-delay", "1500", "--loading-process-events-interval-bytes", "1024")
    with (
        StoreServer(valkey_program(), flags) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        deployment = Deployment(server, sidecar, channel)
        for number in range(400):
            deployment.admin.set(f"other-{number}", os.urandom(200), ex=600)
        deployment.admin.execute_command("BGREWRITEAOF")
        eventually(lambda: deployment.admin.info("persistence")["aof_rewrite_in_progress"] == 0)
        eventually(lambda: deployment.admin.info("persistence")["aof_rewrites"] >= 1)
        deployment.store.close()
        server.kill()
        eventually(lambda: sidecar.health() == NOT_SERVING)
        server.start()
        statuses: set[grpc.StatusCode] = set()
        health_statuses: set[int | None] = set()

        def is_healthy() -> bool:
            # redis-py's own retries would wait until the store has loaded.
            with redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client, suppress(redis.ConnectionError):
                client.ping()
                return deployment.is_healthy()
            health_statuses.add(sidecar.health())
            statuses.update(deployment.statuses().values())
            return False

        eventually(is_healthy, 20)
        assert statuses <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert grpc.StatusCode.UNAVAILABLE in statuses
        assert health_statuses == {NOT_SERVING}
        assert deployment.session.get_notes().notes.summary == CANARY
        assert CANARY not in sidecar.log


def test_a_wrong_password_is_tried_once_per_backoff() -> None:
    """A wrong password is one log line, NOT_SERVING and one attempt per backoff, until it is right again."""
    with (
        StoreServer(valkey_program(), ("--requirepass", "canary-right-one")) as server,
        Proxy(server.port) as proxy,
        Sidecar(f"redis://:canary-wrong-one@127.0.0.1:{proxy.port}", wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        eventually(lambda: len(proxy.times_of(b"AUTH")) >= 7, 10)
        times = proxy.times_of(b"AUTH")
        # On a busy machine, the proxy may see an attempt late, and then the next one soon after it.
        assert times[-1] - times[0] >= 0.8 * sum(min(0.02 * 2**number, 0.5) for number in range(len(times) - 1)), times
        assert sidecar.health() == NOT_SERVING
        session = SessionCalls(channel, new_session_id())
        before, began = len(proxy.times_of(b"AUTH")), time.monotonic()
        for _ in range(20):
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE") as refusal:
                session.get_notes()
            assert "wrong-one" not in refusal.text
            with refused(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE"):
                session.append_turns(1)
        assert len(proxy.times_of(b"AUTH")) - before <= (time.monotonic() - began) / 0.5 + 1
        # By now all connections are needed, and try in turn.
        eventually(lambda: len(proxy.times_of(b"AUTH")) >= before + 5, 10)
        times = proxy.times_of(b"AUTH")[before:]
        assert times[-1] - times[0] >= 0.8 * 0.5 * (len(times) - 1), times
        lines = [line for line in sidecar.log.splitlines() if "NOT_SERVING" in line]
        assert len(lines) == 1
        assert lines[0].endswith("wrong user or password (WRONGPASS)")
        assert "wrong-one" not in sidecar.log
        with redis.Redis(port=server.port, password="canary-right-one") as admin:
            admin.config_set("requirepass", "canary-wrong-one")
        sidecar.wait_until_serving(5)
        assert session.write_notes("run-1").run.number == 1
