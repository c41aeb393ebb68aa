"""`session-notes doctor` on what takes longer to set up: a cluster, a Sentinel, TLS, a user who may too little."""

import re
from contextlib import ExitStack
from pathlib import Path
from subprocess import Popen

import pytest
import redis

from tests.access.callers import Authority, write_secret
from tests.cli.program import Cli
from tests.cli.test_doctor import Diagnosis
from tests.faults.tls_stores import tls_store
from tests.stores import StoreServer, eventually, free_port, redis_program, valkey_cluster, valkey_program
from tests.support import Sidecar

OPERATING = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
PASSWORD = "canary-doctor-2f61"


def rules() -> list[str]:
    """The rules of the user in docs/operating.md, its password aside."""
    [line] = re.findall(r"^ACL SETUSER session-notes (.*)$", OPERATING, re.MULTILINE)
    return [rule for rule in line.split() if not rule.startswith(">")]


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_the_user_of_the_readme(kind: str, sidecar: Sidecar, tmp_path: Path) -> None:
    """It may do all that is needed, and cannot tell the rest; whatever it is not allowed is missed."""
    program = valkey_program() if kind == "valkey" else redis_program()
    if program is None:
        pytest.skip("there is no redis-server on PATH")
    login = ("--redis-password-file", str(write_secret(tmp_path / "password", PASSWORD)))
    with StoreServer(program) as store, redis.Redis(port=store.port) as admin:
        url = store.url.replace("redis://", "redis://app@")

        def as_user(*allowed: str) -> Diagnosis:
            admin.execute_command("ACL", "SETUSER", "app", *allowed, f">{PASSWORD}")
            return Diagnosis(Cli(sidecar.target).here("doctor", "--json", "--redis-url", url, *login), "redis")

        enough = as_user(*rules())
        assert enough.code == 0
        assert (enough.verdict("eviction"), enough.verdict("log")) == ("ok", "skipped")
        assert "the user may not run CONFIG" in enough.says("log")
        if enough.verdict("permissions") == "skipped":
            pytest.skip("Redis 6 does not tell what a user may do")
        for rule in rules():
            if rule not in ("reset", "on"):
                without = as_user(*(other for other in rules() if other != rule))
                assert without.code == 1, f"it is not missed: {rule}"


def test_a_cluster(sidecar: Sidecar) -> None:
    """All its nodes are looked at, and the worst counts; taken for a single node, it says how to write the URL."""
    with valkey_cluster() as url:
        whole = Diagnosis(Cli(sidecar.target).here("doctor", "--json", "--redis-url", url), "redis")
        first = url.removeprefix("redis+cluster://").partition(",")[0]
        with redis.Redis.from_url(f"redis://{first}") as node:
            node.config_set("maxmemory-policy", "allkeys-lru")
        worst = Diagnosis(Cli(sidecar.target).here("doctor", "--json", "--redis-url", url), "redis")
        single = Diagnosis(Cli(sidecar.target).here("doctor", "--json", "--redis-url", f"redis://{first}"), "redis")
    assert (whole.verdict("role"), whole.verdict("eviction")) == ("ok", "ok")
    assert worst.verdict("eviction") == "warning"
    assert "(1 of 3 nodes)" in worst.says("eviction")
    assert single.verdict("role") == "problem"
    assert "redis+cluster://" in single.advice("role")


def test_a_sentinel_and_a_replica(sidecar: Sidecar, tmp_path: Path) -> None:
    """Sentinel's word for the master is taken, its replica counted; of a service it does not know, it says so."""
    program = redis_program()
    if program is None:
        pytest.skip("there is no redis-server on PATH")
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

        def look(service: str, *arguments: str) -> Diagnosis:
            url = f"redis+sentinel://127.0.0.1:{port}/{service}"
            return Diagnosis(Cli(sidecar.target).here("doctor", "--json", "--redis-url", url, *arguments), "redis")

        eventually(lambda: look("mymaster", "--min-replicas-acked", "1").code == 0, 30)
        found = look("mymaster")
        assert found.says("role") == "a master, according to Sentinel"
        assert found.says("replicas").startswith("1 connected")
        assert look("mymaster", "--min-replicas-acked", "2").verdict("replicas") == "problem"
        assert "no Sentinel that answers knows a master of that name" in look("other", "--timeout", "1s").problem


def test_a_store_with_tls(sidecar: Sidecar, tmp_path: Path) -> None:
    """Looked at over TLS by the authority one names; by another, or without TLS, it says what is wrong."""
    authority = Authority(tmp_path / "authority")
    with tls_store(authority.issue("store", "127.0.0.1"), authority) as store:

        def look(scheme: str, *arguments: str) -> Diagnosis:
            url = f"{scheme}://127.0.0.1:{store.port}"
            done = Cli(sidecar.target).here("doctor", "--json", "--timeout", "2s", "--redis-url", url, *arguments)
            return Diagnosis(done, "redis")

        assert look("rediss", "--redis-ca", str(authority.path)).code == 0
        another = Authority(tmp_path / "another")
        assert "its certificate is not trusted" in look("rediss", "--redis-ca", str(another.path)).problem
        assert "is TLS (rediss://) spoken on both sides" in look("redis").problem
