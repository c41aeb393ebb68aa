"""`session-notes doctor` on what takes longer to set up: a cluster, and a user without each of its permissions."""

import re
from pathlib import Path

import pytest
import redis

from tests.access.callers import write_secret
from tests.cli.program import Cli
from tests.cli.test_doctor import Diagnosis
from tests.stores import StoreServer, redis_program, valkey_cluster, valkey_program
from tests.support import Sidecar

README = (Path(__file__).parents[2] / "README.md").read_text()
PASSWORD = "canary-doctor-2f61"


def rules() -> list[str]:
    """The rules of the user in the README, its password aside."""
    [line] = re.findall(r"^ACL SETUSER session-notes (.*)$", README, re.MULTILINE)
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
        assert enough.verdict("eviction") == "skipped"
        assert "our user may not run INFO" in enough.says("eviction")
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
