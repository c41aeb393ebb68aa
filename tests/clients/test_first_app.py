"""A first application, over an outage in the middle of its conversation."""

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

EXCHANGES, AWAY, BACK = 30, 12, 24
LONG = timedelta(seconds=30)


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    """A sidecar that this test may kill, over a store that stays."""
    with StoreServer(redis_program() or valkey_program()) as store, Sidecar(store.url) as sidecar:
        yield sidecar


def analyse(run: ActiveRun) -> Notes:
    """Say how much was seen."""
    return Notes(summary=f"{len(run.transcript)} turns")


def exchange(number: int) -> tuple[Turn, Turn]:
    """What both sides say."""
    return Turn("user", f"question {number}"), Turn("primary", f"answer {number}")


TRANSCRIPT = [turn.text for number in range(EXCHANGES) for turn in exchange(number)]


class Truth:
    """Compares what readings say with how many turns were said."""

    def __init__(self) -> None:
        self.said = 0
        self.ready = 0

    def check(self, bound: int, reading: Reading) -> None:
        """Fail where a reading hides how far the conversation has gone on since its notes."""
        if reading.observed_turn is not None:
            self.ready += 1
            assert reading.turns_behind == self.said - reading.observed_turn
            assert reading.fresh == (self.said - reading.observed_turn <= bound)

    def check_tool(self, bound: int, result: dict[str, object]) -> None:
        """The same of what a model is told."""
        if result["ready"]:
            notes = cast(dict[str, str], result["notes"])
            seen = int(notes["summary"].split()[0])
            assert result["turns_behind"] == self.said - seen
            assert result["fresh"] == (self.said - seen <= bound)


def ways_out(sidecar: Sidecar, how: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """How the sidecar goes away, and how it comes back."""
    if how == "killed":
        return sidecar.kill, sidecar.start
    assert sidecar.process is not None
    send = sidecar.process.send_signal
    return partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_outage_costs_no_turn_and_no_reading_lies(sidecar: Sidecar, how: str) -> None:
    """Thirty exchanges, the sidecar away from the 12th to the 24th: 60 turns in order, no false `fresh`."""
    session_id, truth = new_session_id(), Truth()
    leave, come_back = ways_out(sidecar, how)
    with (
        PrimaryClient(sidecar.target) as primary,
        BackgroundObserver(analyse, target=sidecar.target) as observer,
        TurnRecorder(primary, observer) as recorder,
    ):
        tool = NotesTool(primary, session_id, max_turns_behind=2)

        def read() -> None:
            truth.check(3, primary.get_notes(session_id, max_turns_behind=3, unavailable_ok=True))
            truth.check_tool(2, tool.call())
            said = recorder.turns(session_id)
            truth.check(1, primary.get_notes(session_id, current_turn=said, max_turns_behind=1, unavailable_ok=True))

        for number in range(EXCHANGES):
            if number == AWAY:
                eventually(lambda: primary.get_notes(session_id, unavailable_ok=True).ready)
                leave()
            if number == BACK:
                come_back()
            truth.said += 2
            recorder.record(session_id, *exchange(number))
            assert recorder.turns(session_id) == truth.said
            if how == "killed" or not AWAY < number < BACK:
                read()

        def caught_up() -> bool:
            read()
            return recorder._backlog.empty

        eventually(caught_up, 30)
        eventually(lambda: primary.get_notes(session_id, max_turns_behind=0, unavailable_ok=True).fresh, 30)
        assert truth.ready
        session = primary.get_session(session_id, include_turns=True)
    assert [turn.text for turn in session.turns] == TRANSCRIPT
    assert session.turn_count == 60


async def test_an_outage_costs_asyncio_no_turn(sidecar: Sidecar) -> None:
    """The same with the asyncio client, recorder and tool."""
    session_id, truth = new_session_id(), Truth()
    with BackgroundObserver(analyse, target=sidecar.target) as observer:
        async with AsyncPrimaryClient(sidecar.target) as primary, AsyncTurnRecorder(primary, observer) as recorder:
            tool = AsyncNotesTool(primary, session_id, max_turns_behind=2)

            async def read() -> bool:
                reading = await primary.get_notes(session_id, max_turns_behind=3, unavailable_ok=True)
                truth.check(3, reading)
                truth.check_tool(2, await tool.call())
                said = recorder.turns(session_id)
                truth.check(
                    1,
                    await primary.get_notes(session_id, current_turn=said, max_turns_behind=1, unavailable_ok=True),
                )
                return reading.observed_turn == truth.said

            for number in range(EXCHANGES):
                if number == AWAY:
                    await asyncio.to_thread(sidecar.kill)
                if number == BACK:
                    await asyncio.to_thread(sidecar.start)
                truth.said += 2
                recorder.record(session_id, *exchange(number))
                assert recorder.turns(session_id) == truth.said
                await read()
            async with asyncio.timeout(30):
                while not await read():
                    pass
            assert await recorder.close(LONG)
            session = await primary.get_session(session_id, include_turns=True)
    assert [turn.text for turn in session.turns] == TRANSCRIPT
    assert session.turn_count == 60
