"""A first application with an outage in the middle of its conversation: no turn is lost, and no reading is wrong."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import cast

import pytest
from session_notes import (
    ActiveRun,
    AsyncPrimaryClient,
    AsyncTurnRecorder,
    BackgroundObserver,
    Notes,
    PrimaryClient,
    Reading,
    Turn,
    TurnRecorder,
)
from session_notes.integrations.tools import AsyncNotesTool, NotesTool

from tests.stores import StoreServer, eventually, redis_program, valkey_program
from tests.support import Sidecar, new_session_id

EXCHANGES, FIRST_WITHOUT, FIRST_AFTER = 30, 12, 24
LONG = timedelta(seconds=30)


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    """A sidecar that this test may kill, with a store that survives."""
    with StoreServer(redis_program() or valkey_program()) as store, Sidecar(store.url) as sidecar:
        yield sidecar


def analyse(run: ActiveRun) -> Notes:
    """Return notes on the number of turns."""
    return Notes(summary=f"{len(run.transcript)} turns")


def exchange(number: int) -> tuple[Turn, Turn]:
    """Return the turns of both speakers."""
    return Turn("user", f"question {number}"), Turn("primary", f"answer {number}")


TRANSCRIPT = [turn.text for number in range(EXCHANGES) for turn in exchange(number)]


class RealTurns:
    """Compares readings with the real number of turns."""

    def __init__(self) -> None:
        self.turns = 0
        self.ready = 0

    def check(self, bound: int, reading: Reading) -> None:
        """Fail if a reading hides how far the conversation has moved on since its notes."""
        if reading.observed_turn is not None:
            self.ready += 1
            assert reading.turns_behind == self.turns - reading.observed_turn
            assert reading.fresh == (self.turns - reading.observed_turn <= bound)

    def check_tool(self, bound: int, result: dict[str, object]) -> None:
        """Fail if a tool result hides how far the conversation has moved on since its notes."""
        if result["ready"]:
            notes = cast(dict[str, str], result["notes"])
            observed = int(notes["summary"].split()[0])
            assert result["turns_behind"] == self.turns - observed
            assert result["fresh"] == (self.turns - observed <= bound)


def outage(sidecar: Sidecar, how: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return a function that makes the sidecar unavailable, and one that brings it back."""
    if how == "killed":
        return sidecar.kill, sidecar.start
    assert sidecar.process is not None
    send = sidecar.process.send_signal
    return partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_outage_loses_no_turn_and_corrupts_no_reading(sidecar: Sidecar, how: str) -> None:
    """Thirty exchanges with an outage from the 12th to the 24th: 60 turns in order, no reading wrongly fresh."""
    session_id, real = new_session_id(), RealTurns()
    interrupt, restore = outage(sidecar, how)
    with (
        PrimaryClient(sidecar.target) as primary,
        BackgroundObserver(analyse, target=sidecar.target) as observer,
        TurnRecorder(primary, observer) as recorder,
    ):
        tool = NotesTool(primary, session_id, max_turns_behind=2)

        def read() -> None:
            real.check(3, primary.get_notes(session_id, max_turns_behind=3, unavailable_ok=True))
            real.check_tool(2, tool.call())
            length = recorder.turns(session_id)
            real.check(1, primary.get_notes(session_id, current_turn=length, max_turns_behind=1, unavailable_ok=True))

        for number in range(EXCHANGES):
            if number == FIRST_WITHOUT:
                eventually(lambda: primary.get_notes(session_id, unavailable_ok=True).ready)
                interrupt()
            if number == FIRST_AFTER:
                restore()
            real.turns += 2
            recorder.record(session_id, *exchange(number))
            assert recorder.turns(session_id) == real.turns
            if how == "killed" or not FIRST_WITHOUT < number < FIRST_AFTER:
                read()

        def caught_up() -> bool:
            read()
            return recorder._backlog.empty

        eventually(caught_up, 30)
        eventually(lambda: primary.get_notes(session_id, max_turns_behind=0, unavailable_ok=True).fresh, 30)
        assert real.ready
        session = primary.get_session(session_id, include_turns=True)
    assert [turn.text for turn in session.turns] == TRANSCRIPT
    assert session.turn_count == 60


async def test_an_outage_loses_no_turn_in_asyncio(sidecar: Sidecar) -> None:
    """The asyncio client, recorder and tool pass the same test."""
    session_id, real = new_session_id(), RealTurns()
    with BackgroundObserver(analyse, target=sidecar.target) as observer:
        async with AsyncPrimaryClient(sidecar.target) as primary, AsyncTurnRecorder(primary, observer) as recorder:
            tool = AsyncNotesTool(primary, session_id, max_turns_behind=2)

            async def read() -> bool:
                reading = await primary.get_notes(session_id, max_turns_behind=3, unavailable_ok=True)
                real.check(3, reading)
                real.check_tool(2, await tool.call())
                length = recorder.turns(session_id)
                real.check(
                    1,
                    await primary.get_notes(session_id, current_turn=length, max_turns_behind=1, unavailable_ok=True),
                )
                return reading.observed_turn == real.turns

            for number in range(EXCHANGES):
                if number == FIRST_WITHOUT:
                    await asyncio.to_thread(sidecar.kill)
                if number == FIRST_AFTER:
                    await asyncio.to_thread(sidecar.start)
                real.turns += 2
                recorder.record(session_id, *exchange(number))
                assert recorder.turns(session_id) == real.turns
                await read()
            async with asyncio.timeout(30):
                while not await read():
                    pass
            assert await recorder.close(LONG)
            session = await primary.get_session(session_id, include_turns=True)
    assert [turn.text for turn in session.turns] == TRANSCRIPT
    assert session.turn_count == 60
