"""The soak: a mixed load of every RPC under one random fault after another keeps every promise, and nothing grows.

Random choices come from `--seed`, which pytest's header prints; a failure prints the command that repeats it. The
sidecar has two long lives with a series of crashes between them. Within each life, memory and other resources are
compared between idle moments, without calls and with new connections to the store.
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
from typing import get_args

import grpc
import pytest
from session_notes_tools.replay.promises import PROMISES
from session_notes_tools.replay.records import Outcome

from tests.faults.callers import StubCaller
from tests.faults.load import Load
from tests.faults.measures import MEBIBYTE, descriptors, resident_bytes, threads
from tests.faults.proxy import Proxy
from tests.faults.soak_faults import FAULTS, Stage, sidecar_killed
from tests.stores import Store, StoreServer, eventually, valkey_program
from tests.support import Sidecar, answers, new_channel

# Not `everysec`, with which a store killed on a slow disk loses acknowledged writes (test_machine).
APPEND_ONLY = ("--appendonly", "yes", "--appendfsync", "always")
DEFAULTS = ("--notes-timeout", "80ms", "--store-timeout", "1s")
BACK_SECONDS = 2.0

# Errors that the faults provoke: the sidecar notices a forged or missing reply.
EXPECTED_ERRORS = re.compile(r"belongs to another call|unexpected reply from Redis")

# Imported by Python at its start. On SIGUSR1 the sidecar writes the numbers of pending tasks and of objects to a file.
COUNTER = """
import asyncio, gc, os, signal

def count(*_):
    gc.collect()
    objects = gc.get_objects()
    tasks = sum(issubclass(type(thing), asyncio.Task) and not thing.done() for thing in objects)
    path = os.environ["SOAK_COUNTS"]
    with open(path + ".new", "w") as file:
        file.write(f"{tasks} {len(objects)}")
    os.replace(path + ".new", path)

signal.signal(signal.SIGUSR1, count)
"""


@dataclass(frozen=True)
class Resources:
    """The resources of an idle sidecar."""

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
    """A run of the soak, and its results."""

    stage: Stage
    rng: Random
    counts: Path
    print_progress: Callable[[str], None]
    lives: list[list[Resources]] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    slowest_return: tuple[float, str] = (0.0, "")

    def inject(self, names: Iterator[str], until: float, longest: float, *, at_least: int = 0) -> None:
        """Inject one fault after another."""
        while at_least > 0 or time.monotonic() < until:
            at_least -= 1
            name = next(names)
            fault = sidecar_killed if name == "sidecar_killed" else FAULTS[name]
            fault(self.stage, self.rng, self.rng.uniform(0.1, longest))
            self.faults[name] += 1
            since = time.monotonic()
            self.stage.sidecar.wait_until_serving(20)
            eventually(self.answers, 20)
            outage = time.monotonic() - since
            self.slowest_return = max(self.slowest_return, (outage, name))
            if outage > BACK_SECONDS:
                self.errors.append(f"SERVING and answering only {outage:.1f} s after {name} ended")
            # A pause, so that not every write meets a fault.
            time.sleep(self.rng.uniform(0, longest))
            calls = sum(self.stage.load.statuses.values())
            self.print_progress(f"  {sum(self.faults.values()):4} {name}, SERVING after {outage:.2f} s; {calls} calls")

    def answers(self) -> bool:
        """Return whether a new client can read, and make a write that leaves nothing behind."""
        with new_channel(self.stage.sidecar.target) as channel:
            return answers(channel)

    def measure_idle(self, *, new_life: bool = False) -> None:
        """Pause the load, renew the connections to the store, and measure the sidecar."""
        load, proxy, sidecar = self.stage.load, self.stage.proxy, self.stage.sidecar
        load.pause()
        proxy.refuse()
        proxy.accept()
        sidecar.wait_until_serving()
        assert sidecar.process is not None
        self.counts.unlink(missing_ok=True)
        sidecar.process.send_signal(signal.SIGUSR1)
        eventually(self.counts.exists)
        tasks, objects = (int(number) for number in self.counts.read_text().split())
        resources = Resources(
            rss=resident_bytes(sidecar),
            descriptors=descriptors(sidecar),
            threads=threads(sidecar),
            tasks=tasks,
            objects=objects,
        )
        if new_life:
            self.lives.append([])
        self.lives[-1].append(resources)
        self.print_progress(f"idle: {resources}")
        load.resume()

    def growth(self, tolerated_bytes: int) -> list[str]:
        """Return the resources that grew from the first to the last idle moment of a life."""
        problems = []
        for first, *_, last in self.lives:
            if last.rss > first.rss + tolerated_bytes:
                problems.append(f"memory grew from {first.rss / MEBIBYTE:.1f} to {last.rss / MEBIBYTE:.1f} MiB")
            if last.objects > first.objects * 1.1:
                problems.append(f"Python's objects grew from {first.objects} to {last.objects}")
            for name, tolerated in (("descriptors", 8), ("threads", 8), ("tasks", 4)):
                if getattr(last, name) > getattr(first, name) + tolerated:
                    problems.append(f"{name} grew from {getattr(first, name)} to {getattr(last, name)}")
        return problems

    def logged_errors(self) -> list[str]:
        """Return the unexpected errors in the sidecar's log."""
        return [
            line
            for line in self.stage.sidecar.log.splitlines()
            if ("Traceback" in line or " ERROR " in line or re.search(r"\berror [0-9a-f]{8}\b", line))
            and not EXPECTED_ERRORS.search(line)
        ]

    def table(self, problems: list[str]) -> str:
        """Return a summary of calls, faults and problems."""
        statuses = self.stage.load.statuses
        codes = [code for code in grpc.StatusCode if any(status == code for _, status in statuses)]
        rows = [["", *(code.name for code in codes)]]
        rows += [[rpc, *(str(statuses[rpc, code]) for code in codes)] for rpc in sorted({rpc for rpc, _ in statuses})]
        lines = [row[0].ljust(20) + "".join(f"{cell:>20}" for cell in row[1:]) for row in rows]
        lines += ["", "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))]
        lines += [f"slowest return to SERVING: {self.slowest_return[0]:.2f} s after {self.slowest_return[1]}"]
        load = self.stage.load
        sessions = [*load.sessions, *load.full]
        outcomes = {
            outcome: sum(session.recorder.count(outcome) for session in sessions) for outcome in get_args(Outcome)
        }
        lines += ["writes recorded: " + ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())]
        lines += [f"sessions: {len(sessions)} written, {len(load.deleted)} deleted"]
        kinds = ("lost: ", "duplicate: ", "foreign: ", "torn: ", *PROMISES)
        counts = Counter(next((kind for kind in kinds if kind in problem), "other") for problem in problems)
        lines += ["problems: " + (", ".join(f"{kind.strip(': ')} {count}" for kind, count in counts.items()) or "none")]
        lines += [f"life {number}: {life[0]}\n     → {life[-1]}" for number, life in enumerate(self.lives, 1)]
        return "\n".join(lines)


def cycle(rng: Random) -> Iterator[str]:
    """Yield all faults in random orders, endlessly."""
    while True:
        yield from rng.sample(sorted(FAULTS), len(FAULTS))


@pytest.mark.timeout(1200)
def test_a_soak_keeps_every_promise(
    effort: Callable[[int, int], int],
    seed: int,
    repeat_command: str,
    print_progress: Callable[[str], None],
    tmp_path: Path,
) -> None:
    """Under load and random faults no promise breaks, health recovers within 2 s, and no resource grows."""
    seconds = effort(12, 300)
    print_progress(f"\nsoak of {seconds} s; repeat with: {repeat_command}")
    (tmp_path / "sitecustomize.py").write_text(COUNTER)
    counts = tmp_path / "counts"
    path = os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", "")))
    env = {"PYTHONPATH": path, "SOAK_COUNTS": str(counts)}
    with ExitStack() as stack:
        server = stack.enter_context(StoreServer(valkey_program(), APPEND_ONLY))
        proxy = stack.enter_context(Proxy(server.port))
        sidecar = stack.enter_context(Sidecar(proxy.url, flags=DEFAULTS, env=env))
        with Load(sidecar.target, seed) as load:
            rng = Random(seed)
            soak, names = Soak(Stage(server, proxy, sidecar, load), rng, counts, print_progress), cycle(rng)
            begin, longest = time.monotonic(), effort(1, 10) * 0.3
            try:
                # The first life: all faults once (half of them in the quick form) to warm up, then more.
                soak.inject(names, 0, longest, at_least=effort(len(FAULTS) // 2, len(FAULTS)))
                soak.measure_idle(new_life=True)
                soak.inject(names, begin + 0.45 * seconds, longest, at_least=len(FAULTS) - len(FAULTS) // 2)
                soak.measure_idle()
                soak.inject(iter(["sidecar_killed"] * effort(1, 8)), 0, longest / 2, at_least=effort(1, 8))
                soak.inject(names, 0, longest, at_least=effort(1, len(FAULTS)))
                soak.measure_idle(new_life=True)
                soak.inject(names, begin + seconds, longest, at_least=1)
                soak.measure_idle()
            finally:
                load.pause()
            sidecar.wait_until_serving(BACK_SECONDS)
            store = Store(server.url, sidecar.store.prefix)
            stack.callback(store.close)
            with new_channel(sidecar.target) as channel:
                problems = load.problems(store, StubCaller(channel))
            problems += [f"this key never expires: {key!r}" for key in store.without_ttl()]
            problems += [f"in the log: {line}" for line in soak.logged_errors()]
            problems += soak.errors + soak.growth(effort(24, 8) * MEBIBYTE)
            table = soak.table(problems)
            print_progress(table)
            count = f"({len(problems)} in all)"
            assert not problems, "\n".join([*problems[:20], count, table, f"repeat with: {repeat_command}"])
