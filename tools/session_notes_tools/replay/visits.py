"""Visits of the replayed observer to sessions, and the courses of their runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto


class Fate(Enum):
    """The course of a run."""

    WRITES = auto()
    SLOW = auto()
    """Takes long enough for a newer run to write first."""
    TWICE = auto()
    """Writes the same notes again later, like a client that got no response."""
    FAILS = auto()
    ABANDONED = auto()


@dataclass(slots=True)
class ObservedSession:
    """The observer's view of a session.

    Attributes:
        has_turns: Whether it has any turns yet.
        visits: The number of visits so far.
        blocking_visit: The visit that blocks further ones; None if a round may begin the next.
        idle_rounds: The number of rounds in a row without changes.
        next_round: The first round that checks it again.
    """

    index: int
    session_id: str
    has_turns: bool = False
    visits: int = 0
    blocking_visit: int | None = None
    idle_rounds: int = 0
    next_round: int = 0

    def begin_visit(self) -> int:
        """Begin a visit that blocks further ones, and return its number."""
        self.visits += 1
        self.blocking_visit = self.visits
        return self.visits

    def release(self, visit: int) -> None:
        """Allow the next visit, unless it has already begun."""
        if self.blocking_visit == visit:
            self.blocking_visit = None


@dataclass(frozen=True, slots=True)
class Visit:
    """A visit to a session; `number` counts from 1, and `rng` does not depend on the thread."""

    session: ObservedSession
    number: int
    fate: Fate
    rng: random.Random

    @property
    def run_id(self) -> str:
        """The id of its run."""
        return f"run-{self.number}"
