"""The faults of the soak: each starts, lasts about the given number of seconds under load, and ends."""

import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import redis

from tests.faults.load import Load
from tests.faults.proxy import Proxy
from tests.stores import StoreServer, eventually
from tests.support import Sidecar


@dataclass
class Stage:
    """The processes of the soak, and the means to break them."""

    server: StoreServer
    proxy: Proxy
    sidecar: Sidecar
    load: Load

    def admin(self) -> redis.Redis:
        """Connect to the store, bypassing proxy and sidecar."""
        return redis.Redis(port=self.server.port)

    def signal(self, number: int) -> None:
        """Send the sidecar a signal."""
        assert self.sidecar.process is not None
        os.kill(self.sidecar.process.pid, number)

    def session_id(self, rng: Random) -> bytes:
        """Return the id of a session under load."""
        return rng.choice(self.load.sessions).id.encode()


Fault = Callable[[Stage, Random, float], None]


def _store_answers(stage: Stage) -> bool:
    with stage.admin() as admin, suppress(redis.ConnectionError):  # BusyLoading is one of these.
        return bool(admin.ping())
    return False


def store_killed(stage: Stage, rng: Random, seconds: float) -> None:
    """Kill the store, and restart it on its append-only file."""
    stage.server.kill()
    time.sleep(seconds)
    stage.server.start()
    eventually(lambda: _store_answers(stage), 20)


def store_stopped(stage: Stage, rng: Random, seconds: float) -> None:
    """Stop the store with SIGSTOP, and continue it."""
    stage.server.pause()
    time.sleep(seconds)
    stage.server.resume()


def sidecar_stopped(stage: Stage, rng: Random, seconds: float) -> None:
    """Stop the sidecar, and continue it with timers due, replies waiting and deadlines expired."""
    stage.signal(signal.SIGSTOP)
    time.sleep(seconds)
    stage.signal(signal.SIGCONT)


def delay(stage: Stage, rng: Random, seconds: float) -> None:
    """Delay replies, some beyond their deadline."""
    stage.proxy.delay_seconds = rng.uniform(0.005, 0.15)
    time.sleep(seconds)
    stage.proxy.delay_seconds = 0.0


def black_hole(stage: Stage, rng: Random, seconds: float) -> None:
    """Let nothing through in either direction."""
    stage.proxy.black_hole = True
    time.sleep(seconds)
    stage.proxy.black_hole = False


def connections_refused(stage: Stage, rng: Random, seconds: float) -> None:
    """Reset all connections and refuse new ones."""
    stage.proxy.refuse()
    time.sleep(seconds)
    stage.proxy.accept()


def connections_held(stage: Stage, rng: Random, seconds: float) -> None:
    """Let connections go dead one by one, as soon as each sends a call on one session."""
    stage.proxy.hold(stage.session_id(rng))
    time.sleep(seconds)
    stage.proxy.hold(b"")


def _lose_replies(stage: Stage, rng: Random, seconds: float, how: str) -> None:
    until = time.monotonic() + seconds
    for _ in range(8):
        lost = stage.proxy.lost
        stage.proxy.lose_reply(rng.choice((b"turn:", b"turn:", b"field:", b"run:")), how)
        with suppress(AssertionError):
            eventually(lambda: stage.proxy.lost > lost, 1)  # noqa: B023
        if time.monotonic() > until:
            return


def reply_swallowed(stage: Stage, rng: Random, seconds: float) -> None:
    """Let writes reach the store, and swallow their replies."""
    _lose_replies(stage, rng, seconds, "swallow")


def reset_after_write(stage: Stage, rng: Random, seconds: float) -> None:
    """Let writes reach the store, then reset the connection."""
    _lose_replies(stage, rng, seconds, "reset")


def stray_reply(stage: Stage, rng: Random, seconds: float) -> None:
    """Inject another session's reply before the right one, and while no reply is awaited."""
    for _ in range(3):
        strays = stage.proxy.replies_to(stage.session_id(rng))
        if strays:
            lost = stage.proxy.lost
            stage.proxy.inject_before_reply(stage.session_id(rng), strays[-1])
            with suppress(AssertionError):
                eventually(lambda: stage.proxy.lost > lost, 1)  # noqa: B023
            stage.proxy.inject_at_rest(strays[0])


def scripts_flushed(stage: Stage, rng: Random, seconds: float) -> None:
    """Flush the store's scripts repeatedly."""
    with stage.admin() as admin:
        for _ in range(10):
            admin.script_flush()
            time.sleep(seconds / 10)


def clients_killed(stage: Stage, rng: Random, seconds: float) -> None:
    """Make the store close all connections repeatedly."""
    with stage.admin() as admin:
        for _ in range(5):
            admin.client_kill_filter(_type="normal", skipme=True)
            time.sleep(seconds / 5)


def out_of_memory(stage: Stage, rng: Random, seconds: float) -> None:
    """Make the store run out of memory."""
    with stage.admin() as admin:
        admin.config_set("maxmemory", 1)
        time.sleep(seconds)
        admin.config_set("maxmemory", 0)


def flood(stage: Stage, rng: Random, seconds: float) -> None:
    """Make hundreds of calls at once."""
    stage.load.flood(rng.choice((200, 400)))


def garbage(stage: Stage, rng: Random, seconds: float) -> None:
    """Send noise to the sidecar's own port."""
    host, _, port = stage.sidecar.target.rpartition(":")
    for _ in range(20):
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=5) as peer:
            peer.sendall(rng.choice((b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01")) + rng.randbytes(400))


FAULTS: dict[str, Fault] = {
    fault.__name__: fault
    for fault in (
        store_killed, store_stopped, sidecar_stopped, delay, black_hole, connections_refused, connections_held,
        reply_swallowed, reset_after_write, stray_reply, scripts_flushed, clients_killed, out_of_memory, flood, garbage,
    )
}  # fmt: skip
"""The faults that the sidecar survives."""


def sidecar_killed(stage: Stage, rng: Random, seconds: float) -> None:
    """Kill the sidecar, and restart it."""
    stage.sidecar.kill()
    time.sleep(seconds)
    stage.sidecar.start()
