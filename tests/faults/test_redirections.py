"""Redirections in every form that Redis documents: followed, or refused with the reason."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
import redis
from session_notes_server.store import Executor, RedisTarget, StoreUnavailable, describe_error, scripts
from session_notes_server.store.redis.cluster_slots import parse_redirection, slot_of
from session_notes_server.store.redis.url import Address

from tests.faults.deployments import move_slot
from tests.faults.fake_redis import Answer, array, bulk, fake_redis, slots, tagged, text
from tests.stores import valkey_cluster
from tests.support import SessionCalls, Sidecar, new_channel, new_session_id, status_of

NULL = b"$-1\r\n"
LAST = 16383


async def reason_of(url: str, action: Callable[[Executor], Coroutine[Any, Any, object]]) -> str:
    """Run an executor's action on a store, and return the reason if it is refused, else an empty string."""
    executor = Executor(RedisTarget.parse(url), prefix="fake", timeout=timedelta(seconds=0.5))
    try:
        await action(executor)
    except StoreUnavailable as error:
        return describe_error(error.__cause__)
    finally:
        await executor.aclose()
    return ""


async def read(executor: Executor) -> object:
    """Run a script."""
    return await executor.run("a-session", scripts.GetNotes(""))


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, list[int]]]:
    """A real cluster's URL, and the ports of its nodes."""
    with valkey_cluster() as url:
        yield url, [int(part.rpartition(":")[2]) for part in url.removeprefix("redis+cluster://").split(",")]


@contextmanager
def nodes_named_by(form: str, ports: list[int]) -> Iterator[None]:
    """Make nodes name each other in a form, and afterwards by address, as other tests need."""
    for setting in (form, "ip"):
        for port in ports:
            with redis.Redis(port=port) as admin:
                admin.config_set("cluster-preferred-endpoint-type", setting)
        if setting == form:
            yield


@pytest.mark.parametrize("form", ["unknown-endpoint", "hostname"])
def test_a_moved_slot_is_followed_in_every_form(form: str, cluster: tuple[str, list[int]]) -> None:
    """In a real cluster that names nodes without a host or as `?`, the first call after a slot has moved is OK."""
    url, ports = cluster
    with Sidecar(url) as sidecar, new_channel(sidecar.target) as channel, nodes_named_by(form, ports):
        session = SessionCalls(channel, new_session_id())
        session.write_notes("run-1", "said")
        for _ in range(2):
            move_slot(ports, slot_of(sidecar.store.key(session.id)))
            assert status_of(session.get_notes) == grpc.StatusCode.OK
            assert status_of(session.append_turns) == grpc.StatusCode.OK
        assert session.get_notes().notes.summary == "said"
        # Also from a cold start, with slots in the same form.
        sidecar.restart()
        assert session.get_notes().notes.summary == "said"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":6381", Address("asked", 6381)),
        ("?:6381", None),
        ("10.0.0.2:6381", Address("10.0.0.2", 6381)),
        ("::1:6381", Address("::1", 6381)),
        ("[::1]:6381", Address("::1", 6381)),
        ("node-2.example:6381", Address("node-2.example", 6381)),
        ("10.0.0.2:0", None),
        ("10.0.0.2:", None),
        ("10.0.0.2:port", None),
        ("nothing", None),
    ],
)
def test_a_redirection_is_read_in_every_form(text: str, address: Address | None) -> None:
    """A redirection without a host means the node that sent it; `?` and malformed ones are unknown."""
    assert parse_redirection(text, Address("asked", 6379)) == address


def node(answer: Answer, owner: bytes = NULL) -> Answer:
    """Return the replies of a node that owns all slots and names itself as `owner`."""
    return lambda command, port: slots((0, LAST, owner, port)) if command[0] == b"CLUSTER" else answer(command, port)


def reason_at(answer: Answer, action: Callable[[Executor], Coroutine[Any, Any, object]] = read) -> str:
    """Run an action on a cluster of one fake node, and return the reason if it is refused."""

    async def run() -> str:
        async with fake_redis(answer) as port:
            return await reason_of(f"redis+cluster://127.0.0.1:{port}", action)

    return asyncio.run(run())


@pytest.mark.parametrize("owner", [NULL, text(""), text("127.0.0.1"), text("localhost")])
def test_the_owner_of_slots_is_found_in_every_form(owner: bytes) -> None:
    """An owner of NULL or an empty string is the node that replied, and a host name is resolved."""
    assert reason_at(node(tagged, owner)) == ""


@pytest.mark.parametrize(
    ("ranges", "reason"),
    [
        (b"*0\r\n", "no node that it can name has slots"),
        (array(array(b":0\r\n", b":16383\r\n")), "no node that it can name has slots"),
        (slots((0, LAST, text("?"), 1)), "no node that it can name has slots"),
        (b"+OK\r\n", "not understood"),
        (array(array(b":0\r\n", b":99999\r\n", array(NULL, b":1\r\n"))), "not understood"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        (b"-NOPERM this user has no permissions to run the 'cluster|slots' command\r\n", "cluster|slots"),
        (b"-ERR This instance has cluster support disabled\r\n", "it is not a cluster"),
    ],
)
def test_unusable_slots_are_refused_with_the_reason(ranges: bytes, reason: str) -> None:
    """With an unusable reply to CLUSTER SLOTS, calls and health are refused with the reason."""
    for action in (read, Executor.ping):
        assert reason in reason_at(lambda _, __: ranges, action)


def test_missing_slots_fail_health() -> None:
    """With a node for half of the slots only, health is refused with the reason."""

    def answer(command: list[bytes], port: int) -> bytes:
        return slots((0, LAST // 2, NULL, port)) if command[0] == b"CLUSTER" else tagged(command)

    assert "slots that no node serves" in reason_at(answer, Executor.ping)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"-MOVED 1 :PORT\r\n", "redirect a slot to each other"),
        (b"-MOVED 1 ?:PORT\r\n", "without naming its host"),
        (b"-ASK 1 ?:PORT\r\n", "without naming its host"),
        (b"-MOVED 1 127.0.0.1:1\r\n", "connection refused"),
        (b"-CLUSTERDOWN Hash slot not served\r\n", "CLUSTERDOWN"),
        (b"-CLUSTERDOWN The cluster is down and only accepts read commands\r\n", "CLUSTERDOWN"),
        (b"-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "TRYAGAIN"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
        (b"-MASTERDOWN Link with MASTER is down\r\n", "MASTERDOWN"),
    ],
)
def test_refusals_of_a_node_have_a_reason(reply: bytes, reason: str) -> None:
    """Circular and unusable redirections and refusals of a node are refused with the reason."""

    def answer(command: list[bytes], port: int) -> bytes:
        if command[0] == b"EVAL":  # The fence after an error.
            return tagged(command)
        return reply.replace(b"PORT", b"%d" % port)

    assert reason in reason_at(node(answer))
    if b"TRYAGAIN" not in reply:
        assert reason in reason_at(node(answer), Executor.ping)


def test_a_migrating_slot_is_followed() -> None:
    """After an ASK redirection, the script goes to the other node after an ASKING, on the same connection."""

    async def run() -> tuple[str, list[bytes]]:
        commands: list[bytes] = []

        def target(command: list[bytes], _: int) -> bytes:
            commands.append(command[0])
            return b"+OK\r\n" if command[0] == b"ASKING" else tagged(command)

        async with AsyncExitStack() as stack:
            target_port = await stack.enter_async_context(fake_redis(target))

            def source(command: list[bytes], _: int) -> bytes:
                return b"-ASK 1 :%d\r\n" % target_port if command[0] == b"EVALSHA" else tagged(command)

            source_port = await stack.enter_async_context(fake_redis(node(source)))
            return await reason_of(f"redis+cluster://127.0.0.1:{source_port}", read), commands

    reason, commands = asyncio.run(run())
    assert reason == ""
    assert commands == [b"ASKING", b"EVALSHA"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"*-1\r\n", "no Sentinel that answers knows a running master with that name"),
        (b"-IDONTKNOW I have not enough information about that name\r\n", "IDONTKNOW"),
        (b"-NOAUTH Authentication required.\r\n", "set --sentinel-password-file"),
        (b"-NOPERM this user has no permissions to run the 'sentinel|get-master-addr-by-name' command\r\n", "NOPERM"),
        (b"-LOADING Redis is loading the dataset in memory\r\n", "LOADING"),
        (b"-ERR unknown command 'SENTINEL'\r\n", "it is not a Sentinel"),
        (bulk("127.0.0.1", "1"), "connection refused"),
        (bulk("", "1"), "is not an address"),
        (bulk("nowhere.invalid", "6379"), "its host name cannot be resolved"),
        (bulk("no\0where", "6379"), "its host name is invalid"),
        (bulk("a..b", "6379"), "its host name is invalid"),
        (b"+OK\r\n", "is not an address"),
    ],
)
def test_unusable_answers_of_a_sentinel_have_a_reason(answer: bytes, reason: str) -> None:
    """A Sentinel's reply without a usable master makes calls and health fail with the reason."""

    async def run(action: Callable[[Executor], Coroutine[Any, Any, object]]) -> str:
        async with fake_redis(lambda _, __: answer) as port:
            return await reason_of(f"redis+sentinel://127.0.0.1:{port}/main", action)

    for action in (read, Executor.ping):
        assert reason in asyncio.run(run(action))


def test_a_server_that_accepts_everything_is_not_redis(caplog: pytest.LogCaptureFixture) -> None:
    """A server that replies +OK to every command is refused with the reason, in at most one log line."""

    async def run() -> list[str]:
        async with fake_redis(lambda _, __: b"+OK\r\n") as port:
            return [await reason_of(f"redis://127.0.0.1:{port}", action) for action in (read, Executor.ping) * 3]

    assert all("its replies do not match the commands" in reason for reason in asyncio.run(run()))
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) <= 1
