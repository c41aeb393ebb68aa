"""Every error of the store has a status: UNAVAILABLE with a fixed text, never UNKNOWN or INTERNAL, and it heals."""

import itertools
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

from tests.faults.proxy import Proxy
from tests.stores import Store, StoreServer, free_port, valkey_program
from tests.support import Refusal, SessionCalls, Sidecar, eventually, new_channel, new_session_id, refused

SERVING, NOT_SERVING = 1, 2
CANARY = "canary-7c1f"
TELLTALES = ("READONLY", "BUSY", "OOM", "MISCONF", "NOPERM", "LOADING", "NOSCRIPT", "EVALSHA", "127.0.0.1", "edis")


class Case:
    """A sidecar on a store of its own, with notes in it, and a look past the sidecar."""

    def __init__(self, server: StoreServer, sidecar: Sidecar, channel: grpc.Channel) -> None:
        self.server, self.sidecar = server, sidecar
        self.store = Store(server.url, sidecar.store.prefix)
        self.admin = self.store.client
        self.session = SessionCalls(channel, new_session_id())
        self.session.write_notes("run-0", CANARY)
        self.session.append_turns(1)

    def calls(self) -> dict[str, Callable[[], object]]:
        """A call of every kind, those that write first."""
        session, run = self.session, f"run-{CANARY}-{new_session_id()[-6:]}"
        return {
            "begin": lambda: session.begin_run(run),
            "write": lambda: session.write_notes(run, CANARY),
            "fail": lambda: session.fail_run("run-0-never", reason=CANARY),
            "append": lambda: session.append_turns(1),
            "update": lambda: session.update_session(set={CANARY: CANARY}),
            "notes": session.get_notes,
            "runs": session.list_runs,
            "session": session.get_session,
        }

    def ends(self) -> dict[str, grpc.StatusCode]:
        """How each kind of call ends; whatever a caller is told is fixed and tells of nothing."""
        ends: dict[str, grpc.StatusCode] = {}
        for name, call in self.calls().items():
            refusal = Refusal()
            try:
                call()
            except grpc.RpcError as error:
                refusal.read(error)
                assert not [word for word in (*TELLTALES, CANARY) if word in refusal.text], refusal.text
            assert refusal.code != grpc.StatusCode.UNAVAILABLE or refusal.retry_delay_seconds
            assert refusal.code != grpc.StatusCode.NOT_FOUND or name == "fail"
            ends[name] = grpc.StatusCode.OK if refusal.code == grpc.StatusCode.NOT_FOUND else refusal.code
        return ends

    def whole(self) -> bool:
        """Whether every kind of call is answered, and health says SERVING."""
        return set(self.ends().values()) == {grpc.StatusCode.OK} and self.sidecar.health() == SERVING


READS = {"notes", "runs", "session"}


@pytest.fixture(scope="module")
def case() -> Iterator[Case]:
    with (
        StoreServer(valkey_program()) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        made = Case(server, sidecar, channel)
        yield made
        made.store.close()
        assert CANARY not in sidecar.log
        assert "Traceback" not in sidecar.log


@contextmanager
def noscript(case: Case) -> Iterator[None]:
    case.admin.script_flush()
    yield


@contextmanager
def readonly(case: Case) -> Iterator[None]:
    case.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    yield
    case.admin.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def masterdown(case: Case) -> Iterator[None]:
    case.admin.config_set("replica-serve-stale-data", "no")
    case.admin.execute_command("REPLICAOF", "127.0.0.1", free_port())
    yield
    case.admin.execute_command("REPLICAOF", "NO", "ONE")
    case.admin.config_set("replica-serve-stale-data", "yes")


@contextmanager
def busy(case: Case) -> Iterator[None]:
    case.admin.config_set("busy-reply-threshold", 1)

    def hang() -> None:
        with redis.Redis(port=case.server.port, socket_timeout=60) as client, suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    def is_busy() -> bool:
        try:
            case.admin.ping()
        except redis.ResponseError as error:
            return str(error).startswith("BUSY")
        return False

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        eventually(is_busy)
        yield
    finally:
        case.admin.script_kill()
        thread.join(10)
        case.admin.config_set("busy-reply-threshold", 5000)


@contextmanager
def oom(case: Case) -> Iterator[None]:
    case.admin.config_set("maxmemory", 1)
    yield
    case.admin.config_set("maxmemory", 0)


@contextmanager
def misconf(case: Case) -> Iterator[None]:
    """Snapshots fail, for there is a directory in the place of their file."""

    def saved(status: str) -> bool:
        with suppress(redis.ResponseError):
            case.admin.bgsave()
        return bool(case.admin.info("persistence")["rdb_last_bgsave_status"] == status)

    in_the_way = Path(case.admin.config_get("dir")["dir"]) / "dump.rdb"
    (in_the_way / "full").mkdir(parents=True)
    case.admin.config_set("save", "3600 1")
    eventually(lambda: saved("err"))
    yield
    (in_the_way / "full").rmdir()
    in_the_way.rmdir()
    eventually(lambda: saved("ok"))
    case.admin.config_set("save", "")


@contextmanager
def noperm(case: Case) -> Iterator[None]:
    case.admin.acl_setuser("default", enabled=True, nopass=True, commands=["-evalsha", "-eval"], keys=["*"])
    yield
    case.admin.execute_command("ACL", "SETUSER", "default", "+@all")


@pytest.mark.parametrize(
    ("fault", "refusing", "serving"),
    [
        (noscript, set[str](), True),
        (readonly, {"begin", "write", "append", "update"}, False),
        (masterdown, {"begin", "write", "append", "update"} | READS, False),
        (busy, {"begin", "write", "append", "update"} | READS, False),
        (oom, {"begin", "write", "append", "update"}, False),
        (misconf, {"begin", "write", "append", "update"}, False),
        (noperm, {"begin", "write", "append", "update"} | READS, False),
    ],
    ids=["NOSCRIPT", "READONLY", "MASTERDOWN", "BUSY", "OOM", "MISCONF", "NOPERM"],
)
def test_every_error_of_the_store_has_a_status(
    case: Case, fault: Callable[[Case], AbstractContextManager[None]], refusing: set[str], serving: bool
) -> None:
    """The store refuses for a reason: each call ends OK or UNAVAILABLE (fixed text, RetryInfo); it heals. Health is
    NOT_SERVING where every write is refused, also if reads are answered."""
    with fault(case):
        ends = case.ends()
        assert set(ends.values()) <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}, ends
        assert {name for name, end in ends.items() if end != grpc.StatusCode.OK} - {"fail"} == refusing
        eventually(lambda: case.sidecar.health() == (SERVING if serving else NOT_SERVING), 5)
    eventually(case.whole, 10)


def test_a_store_that_loads_is_unavailable() -> None:
    """LOADING: a store that still reads its data is UNAVAILABLE and NOT_SERVING, then all of the data is there."""
    flags = ("--appendonly", "yes", "--key-load-delay", "1500", "--loading-process-events-interval-bytes", "1024")
    with (
        StoreServer(valkey_program(), flags) as server,
        Sidecar(server.url) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        case = Case(server, sidecar, channel)
        for number in range(400):
            case.admin.set(f"other-{number}", os.urandom(200), ex=600)
        case.admin.execute_command("BGREWRITEAOF")
        eventually(lambda: case.admin.info("persistence")["aof_rewrite_in_progress"] == 0)
        eventually(lambda: case.admin.info("persistence")["aof_rewrites"] >= 1)
        case.store.close()
        server.kill()
        eventually(lambda: sidecar.health() == NOT_SERVING)
        server.start()
        seen: set[grpc.StatusCode] = set()
        seen_health: set[int | None] = set()

        def healed() -> bool:
            # redis-py's own retries would wait for the end of it.
            with redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0)) as client, suppress(redis.ConnectionError):
                client.ping()
                return case.whole()
            seen_health.add(sidecar.health())
            ends = case.ends()
            seen.update(ends.values())
            return False

        eventually(healed, 20)
        assert seen <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert grpc.StatusCode.UNAVAILABLE in seen
        assert seen_health == {NOT_SERVING}
        assert case.session.get_notes().notes.summary == CANARY
        assert CANARY not in sidecar.log


def test_a_wrong_password_is_tried_once_a_backoff() -> None:
    """A wrong password: one line in the log, NOT_SERVING, one attempt a backoff; right again: SERVING."""
    with (
        StoreServer(valkey_program(), ("--requirepass", "canary-right-one")) as server,
        Proxy(server.port) as proxy,
        Sidecar(f"redis://:canary-wrong-one@127.0.0.1:{proxy.port}", wait=False) as sidecar,
        new_channel(sidecar.target) as channel,
    ):
        eventually(lambda: len(proxy.times_of(b"AUTH")) >= 7, 10)
        times = proxy.times_of(b"AUTH")
        waits = [later - earlier for earlier, later in itertools.pairwise(times)]
        least = [min(0.02 * 2**number, 0.5) for number in range(len(waits))]
        assert all(wait >= 0.8 * at_least for wait, at_least in zip(waits, least, strict=True)), waits
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
        # By now all links are wanted, and try in turn.
        eventually(lambda: len(proxy.times_of(b"AUTH")) >= before + 5, 10)
        waits = [later - earlier for earlier, later in itertools.pairwise(proxy.times_of(b"AUTH")[before:])]
        assert min(waits) >= 0.4, waits
        lines = [line for line in sidecar.log.splitlines() if "NOT_SERVING" in line]
        assert len(lines) == 1
        assert lines[0].endswith("wrong user or password (WRONGPASS)")
        assert "wrong-one" not in sidecar.log
        with redis.Redis(port=server.port, password="canary-right-one") as admin:
            admin.config_set("requirepass", "canary-wrong-one")
        sidecar.wait_until_serving(5)
        assert session.write_notes("run-1").run.number == 1
