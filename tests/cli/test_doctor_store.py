"""`session-notes doctor --redis-url`: what a store's settings would cost is said before they do."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from session_notes_server.store import COMMAND_LOGS

from tests.access.callers import write_secret
from tests.cli.program import Cli
from tests.cli.test_doctor import Diagnosis
from tests.stores import StoreServer, free_port, redis_program, valkey_program
from tests.support import DEFAULT_PREFIX, Sidecar

PASSWORD = "canary-doctor-2f61"
CHECKS = [
    "connection", "version", "role", "eviction", "memory", "persistence", "disk", "replicas", "log", "permissions",
    "expiry", "clock",
]  # fmt: skip


@pytest.fixture(scope="module", params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> Iterator[StoreServer]:
    """A store of each kind that tests may set up as they like."""
    program = valkey_program() if request.param == "valkey" else redis_program()
    if program is None:
        pytest.skip("there is no redis-server on PATH")
    with StoreServer(program) as store:
        yield store


@pytest.fixture
def admin(server: StoreServer) -> Iterator[Any]:
    """Its admin. What a test sets is set back."""
    with redis.Redis(port=server.port) as admin:
        before = admin.config_get("*")
        yield admin
        for name in ("maxmemory", "maxmemory-policy", "appendonly", "appendfsync", "save", "min-replicas-to-write"):
            admin.config_set(name, before[name])
        admin.flushall()


@pytest.fixture
def look(cli: Cli, server: StoreServer) -> Callable[..., Diagnosis]:
    """What is found there."""

    def look(*arguments: str, url: str = server.url) -> Diagnosis:
        return Diagnosis(cli.here("doctor", "--json", "--redis-url", url, *arguments), "redis")

    return look


def test_every_check_has_a_line(look: Callable[..., Diagnosis], admin: Any) -> None:
    """All of them, in order; a store as it should be has no warning, until it keeps what users said in its log."""
    admin.config_set("appendonly", "yes")
    for name in COMMAND_LOGS:
        if admin.config_get(name):
            admin.config_set(name, -1)
    found = look()
    assert found.checks == CHECKS
    assert found.code == 0
    assert {found.verdict(check) for check in CHECKS} <= {"ok", "skipped"}
    assert re.match(r"(Valkey|Redis) \d+\.\d+", found.says("version"))
    admin.config_set("slowlog-log-slower-than", 10_000)
    assert look().verdict("log") == "warning"


def test_eviction(look: Callable[..., Diagnosis], admin: Any) -> None:
    """A policy that evicts sessions is a problem once there is a limit; volatile-* evicts nothing but sessions."""
    admin.config_set("maxmemory-policy", "allkeys-lru")
    assert look().verdict("eviction") == "warning"
    admin.config_set("maxmemory", "100mb")
    found = look()
    assert (found.code, found.verdict("eviction")) == (1, "problem")
    assert "allkeys-lru" in found.says("eviction")
    assert "noeviction" in found.advice("eviction")
    admin.config_set("maxmemory-policy", "volatile-ttl")
    assert look().verdict("eviction") == "warning"
    admin.config_set("maxmemory-policy", "noeviction")
    assert look().verdict("eviction") == "ok"


def test_memory(look: Callable[..., Diagnosis], admin: Any) -> None:
    """Use beside the limit: a warning when it is nearly full, a problem when it is."""
    # Made there: a connection's buffers would count as well.
    admin.eval("redis.call('SET', KEYS[1], string.rep('x', 20000000), 'EX', 100)", 1, "large")
    used = admin.info("memory")["used_memory"]
    for share, verdict in ((0.5, "ok"), (0.88, "warning"), (1.2, "problem")):
        admin.config_set("maxmemory", int(used / share))
        assert look().verdict("memory") == verdict, share


def test_persistence(look: Callable[..., Diagnosis], admin: Any) -> None:
    """Nothing, snapshots, an append-only file: what a crash would lose is in the line."""
    nothing = look()
    assert nothing.verdict("persistence") == "warning"
    assert "loses every session" in nothing.says("persistence")
    assert "appendonly yes" in nothing.advice("persistence")
    admin.config_set("save", "3600 1")
    assert "snapshots alone" in look().says("persistence")
    admin.config_set("appendonly", "yes")
    for policy, said in (("everysec", "the last second or two"), ("always", "loses nothing")):
        admin.config_set("appendfsync", policy)
        assert look().verdict("persistence") == "ok"
        assert said in look().says("persistence")
    admin.config_set("appendfsync", "no")
    assert look().verdict("persistence") == "warning"


def test_replicas(look: Callable[..., Diagnosis], admin: Any) -> None:
    """Fewer replicas than writes wait for would make every write UNAVAILABLE."""
    assert look().verdict("replicas") == "ok"
    assert look("--min-replicas-acked", "1").verdict("replicas") == "problem"
    admin.config_set("min-replicas-to-write", 2)
    assert look().verdict("replicas") == "problem"


def test_a_replica_is_no_master(look: Callable[..., Diagnosis], server: StoreServer) -> None:
    """A replica takes no writes: said, with how to name its master."""
    with StoreServer(valkey_program(), ["--replicaof", "127.0.0.1", str(free_port())]) as replica:
        found = look(url=replica.url)
    assert found.verdict("role") == "problem"
    assert "redis+sentinel" in found.advice("role")


def test_keys_for_ever(look: Callable[..., Diagnosis], admin: Any) -> None:
    """Keys with our prefix that never expire are none of ours: counted, and not named."""
    assert "no key with our prefix yet" in look().says("expiry")
    admin.hset(f"{DEFAULT_PREFIX}:{{canary-x}}", "a", "b")
    admin.set(f"{DEFAULT_PREFIX}:{{canary-y}}:turns", "a", ex=100)
    found = look()
    assert found.verdict("expiry") == "warning"
    assert "2 keys with our prefix looked at, 1 never" in found.says("expiry")


def test_a_user_who_may_not(look: Callable[..., Diagnosis], server: StoreServer, admin: Any, tmp_path: Path) -> None:
    """A user with too few permissions: the commands are named. With a wrong password: that it is wrong, and no more."""
    login = ("--redis-password-file", str(write_secret(tmp_path / "password", PASSWORD)))
    url = server.url.replace("redis://", "redis://app@")
    allowed = ("reset", "on", f"~{DEFAULT_PREFIX}:*", "+@all", "-rename", "-rpush", f">{PASSWORD}")
    admin.execute_command("ACL", "SETUSER", "app", *allowed)
    found = look(*login, url=url)
    if found.verdict("permissions") != "skipped":  # Redis 6 does not tell.
        assert (found.code, found.verdict("permissions")) == (1, "problem")
        assert "our user may not run rename, rpush" in found.says("permissions")
    admin.execute_command("ACL", "SETUSER", "app", "resetpass", ">another")
    assert "wrong user or password" in look(*login, url=url).problem


def test_a_store_that_says_nothing(look: Callable[..., Diagnosis], server: StoreServer) -> None:
    """A store that is stopped is told from one that is slow, within the timeout."""
    server.pause()
    try:
        assert "no answer in time" in look("--timeout", "400ms").problem
    finally:
        server.resume()


def test_where_it_cannot_be(look: Callable[..., Diagnosis], cli: Cli, tmp_path: Path) -> None:
    """A URL that is none is wrong usage; a password file others can read, and a host nobody knows, are problems."""
    assert cli.here("doctor", "--redis-url", "localhost").code == 2
    readable = write_secret(tmp_path / "password", PASSWORD)
    readable.chmod(0o644)
    assert "has mode 0644" in look("--redis-password-file", str(readable)).problem
    assert "the name of its host is not found" in look(url="redis://nowhere.invalid").problem


def test_the_embedded_store(cli: Cli, sidecar: Sidecar) -> None:
    """Our own store has nothing to complain of."""
    found = Diagnosis(cli.here("doctor", "--json", "--redis-url", sidecar.store.url), "redis")
    assert {found.verdict(check) for check in CHECKS} == {"ok"}
