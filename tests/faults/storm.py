"""A storm of writes to one session, from many threads."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from session_notes.v1.turn_pb2 import Turn
from session_notes_tools.replay.durability import STORED_KINDS
from session_notes_tools.replay.records import WriteKind

from tests.faults.recorder import Recorder
from tests.support import SessionCalls


def write(session: SessionCalls, kind: WriteKind, name: str, timeout: float = 5) -> int:
    """Write a name, and return its number: the turn count, the version or the run's number. A turn's id is its name."""
    if kind == "turn":
        return session.append_turns([Turn(text=name)], append_id=name, timeout=timeout)
    if kind == "field":
        return session.update_session(set={name: name}, timeout=timeout).version
    return session.write_notes(name, name, timeout=timeout).run.number


@contextmanager
def storm(
    sessions: Sequence[SessionCalls],
    recorder: Recorder,
    writers: int = 6,
    kinds: Iterable[WriteKind] = STORED_KINDS,
) -> Iterator[None]:
    """Write until the block ends or the recorder is full.

    Args:
        sessions: The same session over one or more connections.
        recorder: Records the writes.
        writers: The number of threads.
        kinds: The kinds of writes.
    """
    stopped, numbers, order = threading.Event(), itertools.count(len(recorder.history.records)), list(kinds)

    def work(index: int) -> None:
        session = sessions[index % len(sessions)]
        while not (stopped.is_set() or recorder.full):
            number = next(numbers)
            kind = order[(index + number) % len(order)]
            name = f"{session.id}-{number}-{index}"
            if not recorder.record(kind, [name], lambda: write(session, kind, name)):  # noqa: B023
                stopped.wait(0.02)  # Like a real client. Threads that retry at once starve the sidecar.

    with ThreadPoolExecutor(writers) as pool:
        futures = [pool.submit(work, index) for index in range(writers)]
        try:
            yield
        finally:
            stopped.set()
        for future in futures:
            future.result()
