"""`session-notes doctor --redis-url` reports settings of a store that may lose sessions."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from session_notes import DEFAULT_NOTES_TIMEOUT
from session_notes_server.store import COMMAND_LOGS
from session_notes_tools.doctor.durability import FULL, NEARLY_FULL
from session_notes_tools.doctor.reachability import EXPIRY_WARNING
from session_notes_tools.doctor.store import SLOW_SECONDS

from tests.access.callers import write_secret
from tests.cli.diagnosis import SIDECAR_CHECKS, Diagnosis
from tests.cli.program import Cli
from tests.stores import StoreServer, free_port, redis_program, valkey_program
from tests.support import DEFAULT_PREFIX, Sidecar

PASSWORD = "canary-doctor-2f61"
CHECKS = [
    "connection", "version", "role", "eviction", "memory", "persistence", "disk", "replicas", "log", "permissions",
    "expiry", "clock",
]  # fmt: skip


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    """Run a store of each kind, whose settings tests may change."""
    program = valkey_program() if request.param == "valkey" else redis_program()
    if program is None:
        pytest.skip("redis-server is not on PATH")
    with StoreServer(program) as store:
        yield store


@pytest.fixture
def admin(server: StoreServer) -> Iterator[Any]:
    """Return a client for the store's admin, and restore the settings afterwards."""
    with redis.Redis(port=server.port) as admin:
        before = admin.config_get("*")
        yield admin
        for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save", "min-replicas-to-write"):
            admin.config_set(name, before[name])
        admin.flushall()


@pytest.fixture
def check(cli: Cli, server: StoreServer) -> Callable[..., Diagnosis]:
    """Return a function that runs the doctor against the store."""

    def check(*arguments: str, url: str = server.url) -> Diagnosis:
        return Diagnosis(cli.in_process("doctor", "--json", "--redis-url", url, *arguments), "redis")

    return check


def test_docs_list_every_check() -> None:
    """docs/command-line.md lists all checks in order, with the thresholds used in the code."""
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    sidecar_part, _, store_part = page.partition("### The sidecar")[2].partition("### Redis or Valkey")
    store_part = store_part.partition("\n## ")[0]
    checks = [re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE) for part in (sidecar_part, store_part)]
    optional = {"options", "certificate", "writes", "clock"}
    assert [check for check in checks[0] if check not in optional] == SIDECAR_CHECKS
    assert optional < set(checks[0])
    assert checks[1] == CHECKS
    assert f"over {SLOW_SECONDS * 1000:.0f} ms" in store_part
    assert f"a warning from {NEARLY_FULL * 100:.0f} %, a problem from {FULL * 100:.0f} %" in store_part
    assert f"last {EXPIRY_WARNING.days} days" in sidecar_part
    assert f"primary's {DEFAULT_NOTES_TIMEOUT // timedelta(milliseconds=1)} ms" in sidecar_part


def test_well_configured_store(check: Callable[..., Diagnosis], admin: Any) -> None:
    """All checks run in order without a warning; turning the slow log on causes one."""
    admin.config_set("appendonly", "yes")
    for name in COMMAND_LOGS:
        if admin.config_get(name):
            admin.config_set(name, -1)
    diagnosis = check()
    assert diagnosis.checks == CHECKS
    assert diagnosis.code == 0
    assert {diagnosis.verdict(check) for check in CHECKS} <= {"ok", "skipped"}
    assert re.match(r"(Valkey|Redis) \d+\.\d+", diagnosis.says("version"))
    admin.config_set("slowlog-log-slower-than", 10_000)
    assert check().verdict("log") == "warning"


def test_eviction(check: Callable[..., Diagnosis], admin: Any) -> None:
    """A policy that evicts sessions is a problem if memory is limited; volatile-* is a warning."""
    admin.config_set("maxmemory-policy", "allkeys-lru")
    assert check().verdict("eviction") == "warning"
    admin.config_set("maxmemory", "100mb")
    diagnosis = check()
    assert (diagnosis.code, diagnosis.verdict("eviction")) == (1, "problem")
    assert "allkeys-lru" in diagnosis.says("eviction")
    assert "noeviction" in diagnosis.advice("eviction")
    admin.config_set("maxmemory-policy", "volatile-ttl")
    assert check().verdict("eviction") == "warning"
    admin.config_set("maxmemory-policy", "noeviction")
    assert check().verdict("eviction") == "ok"


def test_memory(check: Callable[..., Diagnosis], admin: Any) -> None:
    """Memory use is a warning near the limit and a problem beyond it."""
    # A script creates the value, since sending it would also fill connection buffers, which count as memory in use.
    admin.eval("redis.call('SET', KEYS[1], string.rep('x', 20000000), 'EX', 100)", 1, "large")
    used = admin.info("memory")["used_memory"]
    for share, verdict in ((0.5, "ok"), (0.88, "warning"), (1.2, "problem")):
        admin.config_set("maxmemory", int(used / share))
        assert check().verdict("memory") == verdict, share


def test_persistence(check: Callable[..., Diagnosis], admin: Any) -> None:
    """The line states the loss in a crash without persistence, with snapshots and with an append-only file."""
    without = check()
    assert without.verdict("persistence") == "warning"
    assert "loses every session" in without.says("persistence")
    assert "appendonly yes" in without.advice("persistence")
    admin.config_set("save", "3600 1")
    assert "snapshots only" in check().says("persistence")
    admin.config_set("appendonly", "yes")
    for policy, loss in (("everysec", "the last second or two"), ("always", "loses no acknowledged write")):
        admin.config_set("appendfsync", policy)
        assert check().verdict("persistence") == "ok"
        assert loss in check().says("persistence")
    admin.config_set("appendfsync", "no")
    assert check().verdict("persistence") == "warning"


def test_replicas(check: Callable[..., Diagnosis], admin: Any) -> None:
    """Fewer replicas than writes wait for are a problem, since every write then fails with UNAVAILABLE."""
    assert check().verdict("replicas") == "ok"
    assert check("--min-replicas-acked", "1").verdict("replicas") == "problem"
    admin.config_set("min-replicas-to-write", 2)
    assert check().verdict("replicas") == "problem"


def test_replica_as_store(check: Callable[..., Diagnosis], server: StoreServer) -> None:
    """A replica, which refuses writes, is a problem; the advice includes the URL form for Sentinel."""
    with StoreServer(valkey_program(), ["--replicaof", "127.0.0.1", str(free_port())]) as replica:
        diagnosis = check(url=replica.url)
    assert diagnosis.verdict("role") == "problem"
    assert "redis+sentinel" in diagnosis.advice("role")


def test_keys_without_ttl(check: Callable[..., Diagnosis], admin: Any) -> None:
    """Keys with the prefix but without a TTL, which belong to another program, are counted but not named."""
    assert "no key with the prefix yet" in check().says("expiry")
    admin.hset(f"{DEFAULT_PREFIX}:{{canary-x}}", "a", "b")
    admin.set(f"{DEFAULT_PREFIX}:{{canary-y}}:turns", "a", ex=100)
    diagnosis = check()
    assert diagnosis.verdict("expiry") == "warning"
    assert "checked 2 keys with the prefix, 1 without a TTL" in diagnosis.says("expiry")


def test_user_without_permissions(
    check: Callable[..., Diagnosis], server: StoreServer, admin: Any, tmp_path: Path
) -> None:
    """The commands that a user may not run are named; a wrong password is reported without printing it."""
    login = ("--redis-password-file", str(write_secret(tmp_path / "password", PASSWORD)))
    url = server.url.replace("redis://", "redis://app@")
    allowed = ("reset", "on", f"~{DEFAULT_PREFIX}:*", "+@all", "-rename", "-rpush", f">{PASSWORD}")
    admin.execute_command("ACL", "SETUSER", "app", *allowed)
    diagnosis = check(*login, url=url)
    if diagnosis.verdict("permissions") != "skipped":  # Redis 6 does not report permissions.
        assert (diagnosis.code, diagnosis.verdict("permissions")) == (1, "problem")
        assert "the user may not run rename, rpush" in diagnosis.says("permissions")
    admin.execute_command("ACL", "SETUSER", "app", "resetpass", ">another")
    assert "wrong user or password" in check(*login, url=url).problem


def test_silent_store(check: Callable[..., Diagnosis], server: StoreServer) -> None:
    """A store that does not reply is reported within the timeout."""
    server.pause()
    try:
        assert "no answer in time" in check("--timeout", "400ms").problem
    finally:
        server.resume()


def test_invalid_urls_files_and_hosts(check: Callable[..., Diagnosis], cli: Cli, tmp_path: Path) -> None:
    """An invalid URL is a usage error; a password file readable by others and an unknown host are problems."""
    assert cli.in_process("doctor", "--redis-url", "localhost").code == 2
    readable = write_secret(tmp_path / "password", PASSWORD)
    readable.chmod(0o644)
    assert "has mode 0644" in check("--redis-password-file", str(readable)).problem
    assert "its host name cannot be resolved" in check(url="redis://nowhere.invalid").problem


def test_embedded_store(cli: Cli, sidecar: Sidecar) -> None:
    """The embedded store passes every check."""
    diagnosis = Diagnosis(cli.in_process("doctor", "--json", "--redis-url", sidecar.store.url), "redis")
    assert {diagnosis.verdict(check) for check in CHECKS} == {"ok"}
