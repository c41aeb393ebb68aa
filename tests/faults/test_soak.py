"""It lasts: a mixed load of every RPC under one random fault after another. What was answered is true, nothing grows.

What is drawn by chance comes from `--seed`; the header says which, and a failure says the command that repeats it. Two
long lives of one sidecar process, with a row of crashes between them. In each life, memory and the like are compared
between its quiet points: nobody calls, the connections to the store are new.
"""

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import grpc
import pytest

from tests.faults.load import Load, Raw
from tests.faults.proxy import Proxy
from tests.faults.trouble import FAULTS, Stage, sidecar_killed
from tests.stores import Store, StoreServer, eventually, valkey_program
from tests.support import Sidecar, answers, new_channel

# Not `everysec`, with which a store that is killed on a slow disk loses what it has answered: see test_machine.
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")
DEFAULTS = ("--notes-timeout", "80ms", "--store-timeout", "1s")
BACK_SECONDS = 2.0
MEBIBYTE = 1 << 20

# Errors that the faults call for: a forged or missing reply is noticed.
EXPECTED_IN_LOG = re.compile(r"belongs to another call|unexpected reply from Redis")

# What Python imports first: on SIGUSR1 the sidecar writes how many tasks are not done, and how many objects there are.
TELL = """
import asyncio, gc, os, signal

def tell(*_):
    gc.collect()
    objects = gc.get_objects()
    tasks = sum(issubclass(type(one), asyncio.Task) and not one.done() for one in objects)
    path = os.environ["SOAK_TELLS"]
    with open(path + ".new", "w") as file:
        file.write(f"{tasks} {len(objects)}")
    os.replace(path + ".new", path)

signal.signal(signal.SIGUSR1, tell)
"""


@dataclass(frozen=True)
class Quiet:
    """What the sidecar has at a quiet point."""

    rss: int
    descriptors: int
    threads: int
    tasks: int
    objects: int

    def __str__(self) -> str:
        return (
            f"{self.rss / MEBIBYTE:.1f} MiB, {self.descriptors} fds, {self.threads} threads, {self.tasks} tasks, "
            f"{self.objects} objects"
        )


@dataclass
class Soak:
    """One run of the soak, and what it has seen."""

    stage: Stage
    rng: Random
    tells: Path
    say: Callable[[str], None]
    lives: list[list[Quiet]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest_return: tuple[float, str] = (0.0, "")

    def trouble(self, names: Iterator[str], until: float, longest: float, *, at_least: int = 0) -> None:
        """One fault after another."""
        while at_least > 0 or time.monotonic() < until:
            at_least -= 1
            name = next(names)
            fault = sidecar_killed if name == "sidecar_killed" else FAULTS[name]
            fault(self.stage, self.rng, self.rng.uniform(0.1, longest))
            self.faults[name] += 1
            since = time.monotonic()
            self.stage.sidecar.wait_until_serving(20)
            eventually(self.answers, 20)
            took = time.monotonic() - since
            self.slowest_return = max(self.slowest_return, (took, name))
            if took > BACK_SECONDS:
                self.wrong.append(f"SERVING and answering only {took:.1f} s after {name} ended")
            # Now and then a while without faults, so that not every write meets one.
            time.sleep(self.rng.uniform(0, longest))
            done = sum(self.stage.load.tally.values())
            self.say(f"  {sum(self.faults.values()):4} {name}, SERVING after {took:.2f} s; {done} calls")

    def answers(self) -> bool:
        """Whether a new caller can read, and write what leaves nothing behind."""
        with new_channel(self.stage.sidecar.target) as channel:
            return answers(channel)

    def quiet(self, *, new_life: bool = False) -> None:
        """Pauses the load, renews the connections to the store, and looks at the sidecar."""
        load, proxy, sidecar = self.stage.load, self.stage.proxy, self.stage.sidecar
        load.pause()
        proxy.refuse()
        proxy.accept()
        sidecar.wait_until_serving()
        assert sidecar.process is not None
        process = Path(f"/proc/{sidecar.process.pid}")
        self.tells.unlink(missing_ok=True)
        sidecar.process.send_signal(signal.SIGUSR1)
        eventually(self.tells.exists)
        tasks, objects = (int(number) for number in self.tells.read_text().split())
        status = (process / "status").read_text()
        found = Quiet(
            rss=int(status.partition("VmRSS:")[2].split()[0]) * 1024,
            descriptors=len(list((process / "fd").iterdir())),
            threads=int(status.partition("Threads:")[2].split()[0]),
            tasks=tasks,
            objects=objects,
        )
        if new_life:
            self.lives.append([])
        self.lives[-1].append(found)
        self.say(f"quiet: {found}")
        load.go_on()

    def growth(self, tolerated_bytes: int) -> list[str]:
        """What grew from the first to the last quiet point of a life."""
        found = []
        for first, *_, last in self.lives:
            if last.rss > first.rss + tolerated_bytes:
                found.append(f"memory grew from {first.rss / MEBIBYTE:.1f} to {last.rss / MEBIBYTE:.1f} MiB")
            if last.objects > first.objects * 1.1:
                found.append(f"Python's objects grew from {first.objects} to {last.objects}")
            for what, tolerated in (("descriptors", 8), ("threads", 8), ("tasks", 4)):
                if getattr(last, what) > getattr(first, what) + tolerated:
                    found.append(f"{what} grew from {getattr(first, what)} to {getattr(last, what)}")
        return found

    def logged(self) -> list[str]:
        """Lines of the sidecar's log that call for a person."""
        return [
            line
            for line in self.stage.sidecar.log.splitlines()
            if ("Traceback" in line or " ERROR " in line or re.search(r"\berror [0-9a-f]{8}\b", line))
            and not EXPECTED_IN_LOG.search(line)
        ]

    def table(self, wrong: list[str]) -> str:
        """What was done and seen, for people."""
        tally = self.stage.load.tally
        codes = [code for code in grpc.StatusCode if any(at == code for _, at in tally)]
        rows = [["", *(code.name for code in codes)]]
        rows += [[rpc, *(str(tally[rpc, code]) for code in codes)] for rpc in sorted({rpc for rpc, _ in tally})]
        lines = [row[0].ljust(20) + "".join(f"{cell:>20}" for cell in row[1:]) for row in rows]
        lines += ["", "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))]
        lines += [f"slowest return to SERVING: {self.slowest_return[0]:.2f} s after {self.slowest_return[1]}"]
        load = self.stage.load
        kinds = Counter(one.outcome for book in (*load.books, *load.full) for one in book.history.operations)
        lines += [f"writes in histories: {kinds['ok']} ok, {kinds['failed']} refused, {kinds['unknown']} unknown"]
        lines += [f"sessions: {len(load.books) + len(load.full)} written, {len(load.deleted)} deleted"]
        counts = {
            "lost": ("lost", "stale", "refused, yet", "answered"),
            "duplicated": (" times:", "each set once", "counted as", "a retry is answered", "a gap or a repeat"),
            "foreign": ("foreign",),
            "torn": ("torn",),
        }
        found = {name: sum(any(word in one for word in words) for one in wrong) for name, words in counts.items()}
        found["other"] = sum(not any(word in one for words in counts.values() for word in words) for one in wrong)
        lines += [", ".join(f"{name} {count}" for name, count in found.items())]
        lines += [f"life {number}: {life[0]}\n     → {life[-1]}" for number, life in enumerate(self.lives, 1)]
        return "\n".join(lines)


def cycle(rng: Random) -> Iterator[str]:
    """All faults in a random order, again and again."""
    while True:
        yield from rng.sample(sorted(FAULTS), len(FAULTS))


@pytest.mark.timeout(1200)
def test_it_lasts(
    effort: Callable[[int, int], int], seed: int, again: str, say: Callable[[str], None], tmp_path: Path
) -> None:
    """Load and faults (5 min with --soak): 0 lost, 0 duplicated, 0 foreign; every key expires; no INTERNAL, no UNKNOWN;
    SERVING within 2 s of each fault's end; memory, descriptors, threads and tasks flat."""
    seconds = effort(12, 300)
    say(f"\nsoak of {seconds} s; again with: {again}")
    (tmp_path / "sitecustomize.py").write_text(TELL)
    tells = tmp_path / "tells"
    env = {"PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))), "SOAK_TELLS": str(tells)}
    with ExitStack() as stack:
        server = stack.enter_context(StoreServer(valkey_program(), APPEND_ONLY))
        proxy = stack.enter_context(Proxy(server.port))
        sidecar = stack.enter_context(Sidecar(proxy.url, flags=DEFAULTS, env=env))
        with Load(sidecar.target, seed) as load:
            rng = Random(seed)
            soak, names = Soak(Stage(server, proxy, sidecar, load), rng, tells, say), cycle(rng)
            begin, longest = time.monotonic(), effort(1, 10) * 0.3
            try:
                # The first life: once through all faults (in the quick form, through half) to warm up, then on.
                soak.trouble(names, 0, longest, at_least=effort(len(FAULTS) // 2, len(FAULTS)))
                soak.quiet(new_life=True)
                soak.trouble(names, begin + 0.45 * seconds, longest, at_least=len(FAULTS) - len(FAULTS) // 2)
                soak.quiet()
                soak.trouble(iter(["sidecar_killed"] * effort(1, 8)), 0, longest / 2, at_least=effort(1, 8))
                soak.trouble(names, 0, longest, at_least=effort(1, len(FAULTS)))
                soak.quiet(new_life=True)
                soak.trouble(names, begin + seconds, longest, at_least=1)
                soak.quiet()
            finally:
                load.pause()
            sidecar.wait_until_serving(BACK_SECONDS)
            store = Store(server.url, sidecar.store.prefix)
            stack.callback(store.close)
            with new_channel(sidecar.target) as channel:
                wrong = load.faults(store, Raw(channel))
            wrong += [f"this key would stay for ever: {key!r}" for key in store.without_ttl()]
            wrong += [f"in the log: {line}" for line in soak.logged()]
            wrong += soak.wrong + soak.growth(effort(24, 8) * MEBIBYTE)
            table = soak.table(wrong)
            say(table)
            assert not wrong, "\n".join([*wrong[:20], f"({len(wrong)} in all)", table, f"again with: {again}"])
