"""`session-notes doctor` with stores that take longer to set up: a cluster, Sentinel, TLS and ACL users."""

import re
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import pytest
import redis

from tests.access.callers import Authority, write_secret
from tests.cli.diagnosis import Diagnosis
from tests.cli.program import Cli
from tests.faults.tls_stores import tls_store
from tests.stores import StoreServer, eventually, free_port, redis_program, valkey_cluster, valkey_program
from tests.support import Sidecar

OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
PASSWORD = "canary-doctor-2f61"


def rules() -> list[str]:
    """Return the ACL rules of the user in docs/operating.md without its password."""
    [line] = re.findall(r"^ACL SETUSER session-notes (.*)$", OPERATING, re.MULTILINE)
    return [rule for rule in line.split() if not rule.startswith(">")]


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_documented_acl_user(kind: str, sidecar: Sidecar, tmp_path: Path) -> None:
    """The documented rules suffice, and doctor reports a problem if any one of them is missing."""
    program = valkey_program() if kind == "valkey" else redis_program()
    if program is None:
        pytest.skip("no redis-server on PATH")
    login = ("--redis-password-file", str(write_secret(tmp_path / "password", PASSWORD)))
    with StoreServer(program) as store, redis.Redis(port=store.port) as admin:
        url = store.url.replace("redis://", "redis://app@")

        def as_user(*allowed: str) -> Diagnosis:
            admin.execute_command("ACL", "SETUSER", "app", *allowed, f">{PASSWORD}")
            return Diagnosis(Cli(sidecar.target).in_process("doctor", "--json", "--redis-url", url, *login), "redis")

        diagnosis = as_user(*rules())
        assert diagnosis.code == 0
        assert (diagnosis.verdict("eviction"), diagnosis.verdict("log")) == ("ok", "skipped")
        assert "the user may not run CONFIG" in diagnosis.says("log")
        if diagnosis.verdict("permissions") == "skipped":
            pytest.skip("Redis 6 does not report a user's permissions")
        for rule in rules():
            if rule not in ("reset", "on"):
                incomplete = as_user(*(other for other in rules() if other != rule))
                assert incomplete.code == 1, f"doctor does not need {rule}"


def test_cluster(sidecar: Sidecar) -> None:
    """All nodes are inspected and the worst result is reported; a URL of a single node gets advice."""
    with valkey_cluster() as url:
        healthy = Diagnosis(Cli(sidecar.target).in_process("doctor", "--json", "--redis-url", url), "redis")
        first = url.removeprefix("redis+cluster://").partition(",")[0]
        with redis.Redis.from_url(f"redis://{first}") as node:
            node.config_set("maxmemory-policy", "allkeys-lru")
        worst = Diagnosis(Cli(sidecar.target).in_process("doctor", "--json", "--redis-url", url), "redis")
        single = Diagnosis(
            Cli(sidecar.target).in_process("doctor", "--json", "--redis-url", f"redis://{first}"), "redis"
        )
    assert (healthy.verdict("role"), healthy.verdict("eviction")) == ("ok", "ok")
    assert worst.verdict("eviction") == "warning"
    assert "(1 of 3 nodes)" in worst.says("eviction")
    assert single.verdict("role") == "problem"
    assert "redis+cluster://" in single.advice("role")


def test_sentinel_and_replica(sidecar: Sidecar, tmp_path: Path) -> None:
    """Doctor uses the master that Sentinel names and counts its replica; an unknown service is a problem."""
    program = redis_program()
    if program is None:
        pytest.skip("no redis-server on PATH")
    port, config = free_port(), tmp_path / "sentinel.conf"
    with (
        StoreServer(program) as master,
        StoreServer(program, ["--replicaof", "127.0.0.1", str(master.port)]),
        ExitStack() as stack,
    ):
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nlogfile {tmp_path}/log\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
        )
        process = stack.enter_context(Popen([program, str(config), "--sentinel"], start_new_session=True))
        stack.callback(process.kill)

        def diagnose(service: str, *arguments: str) -> Diagnosis:
            url = f"redis+sentinel://127.0.0.1:{port}/{service}"
            return Diagnosis(
                Cli(sidecar.target).in_process("doctor", "--json", "--redis-url", url, *arguments), "redis"
            )

        eventually(lambda: diagnose("mymaster", "--min-replicas-acked", "1").code == 0, 30)
        diagnosis = diagnose("mymaster")
        assert diagnosis.says("role") == "a master, according to Sentinel"
        assert diagnosis.says("replicas").startswith("1 connected")
        assert diagnose("mymaster", "--min-replicas-acked", "2").verdict("replicas") == "problem"
        assert (
            "no Sentinel that answers knows a running master with that name"
            in diagnose("other", "--timeout", "1s").problem
        )


def test_tls(sidecar: Sidecar, tmp_path: Path) -> None:
    """A store with TLS passes with the right authority; another authority, or no TLS, is a problem with advice."""
    authority = Authority(tmp_path / "authority")
    with tls_store(authority.issue("store", "127.0.0.1"), authority) as store:

        def diagnose(scheme: str, *arguments: str) -> Diagnosis:
            url = f"{scheme}://127.0.0.1:{store.port}"
            done = Cli(sidecar.target).in_process("doctor", "--json", "--timeout", "2s", "--redis-url", url, *arguments)
            return Diagnosis(done, "redis")

        assert diagnose("rediss", "--redis-ca", str(authority.path)).code == 0
        other_authority = Authority(tmp_path / "other")
        assert "its certificate is not trusted" in diagnose("rediss", "--redis-ca", str(other_authority.path)).problem
        assert "do both sides use TLS (rediss://)" in diagnose("redis").problem
