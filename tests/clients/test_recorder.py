"""Recorders: turns are stored once, in order, in spite of failures, and without holding up the conversation."""

import asyncio
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from session_notes import (
    AsyncPrimaryClient,
    AsyncTurnRecorder,
    BackgroundObserver,
    InvalidArgument,
    Notes,
    ObserverClient,
    PrimaryClient,
    StaleReason,
    Turn,
    TurnRecorder,
    Unavailable,
    UsageError,
    _backlog,
)
from session_notes._storable import Storable

from tests.peers import Proxy, RejectingServer
from tests.support import CANARY, Sidecar, eventually, new_session_id

LONG = timedelta(seconds=30)
NOW = timedelta()


def stored_texts(client: PrimaryClient, session_id: str) -> list[str]:
    """Return the texts of the stored turns, in order."""
    return [turn.text for turn in client.get_session(session_id, include_turns=True, timeout=LONG).turns]


def turns(*texts: object) -> list[Turn]:
    """Return turns of a user."""
    return [Turn("user", str(text)) for text in texts]


def before_appends(client: PrimaryClient, action: Callable[[], None]) -> None:
    """Perform an action before each append of a client's recorder."""
    send: Any = client._transport.send

    def acting(call: Any, *args: Any) -> Any:
        if call.method.endswith("/AppendTurns"):
            action()
        return send(call, *args)

    client._transport.send = acting  # type: ignore[assignment,method-assign]


def remains(sidecar: Sidecar, session_id: str) -> list[bytes]:
    """Return the stored keys of a session, except the ids that refuse late calls after a deletion."""
    return [key for key in sidecar.store.keys(session_id) if not key.endswith(b":deleted")]


@contextmanager
def promptly() -> Iterator[None]:
    """Fail if the block waits for the sidecar."""
    before = time.monotonic()
    yield
    assert time.monotonic() - before < 5


@pytest.fixture
def recorder(primary: PrimaryClient) -> Iterator[TurnRecorder]:
    """A recorder on the shared sidecar, without an observer."""
    with TurnRecorder(primary) as recorder:
        yield recorder


@pytest.fixture
def unavailable(unreachable: str) -> Iterator[tuple[PrimaryClient, TurnRecorder]]:
    """A client and a recorder of a sidecar that stays unavailable."""
    with PrimaryClient(unreachable) as primary:
        recorder = TurnRecorder(primary)
        yield primary, recorder
        recorder.close(NOW)


@pytest.fixture
def own_sidecar() -> Iterator[Sidecar]:
    """A sidecar that this test may stop."""
    with Sidecar() as sidecar:
        yield sidecar


class TestOrder:
    """Turns are stored in order, and runs follow them."""

    def test_turns_stay_in_order(self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
        """Any number of turns keep their order at any rate."""
        for number in range(1000):
            recorder.record(session_id, *turns(number))
        assert recorder.turns(session_id) == 1000
        assert recorder.close()
        assert stored_texts(primary, session_id) == [str(number) for number in range(1000)]

    def test_more_than_fits_in_one_call(self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
        """A conversation that exceeds the limits of one call, in number or size, is stored by several calls."""
        recorder.record(session_id, *turns(*range(6000)))
        other = new_session_id()
        recorder.record(other, *turns(*["x" * 60_000] * 100))
        assert recorder.close(LONG)
        assert primary.get_session(session_id).turn_count == 6000
        assert stored_texts(primary, session_id) == [str(number) for number in range(4000, 6000)]
        assert len(stored_texts(primary, other)) == 100

    def test_a_run_sees_the_recorded_turns(
        self, primary: PrimaryClient, observer: ObserverClient, session_id: str
    ) -> None:
        """Runs begin after the turns are stored. `observe=False` submits none, a recording without turns one."""
        transcript_lengths: list[int] = []

        def analyse(run: Any) -> Notes:
            transcript_lengths.append(len(run.transcript))
            return Notes()

        with (
            BackgroundObserver(analyse, brakes=False, client=observer) as background,
            TurnRecorder(primary, background) as recorder,
        ):
            recorder.record(session_id, *turns("a", "b"))
            eventually(lambda: transcript_lengths == [2])
            recorder.record(session_id, *turns("c"), observe=False)
            eventually(lambda: primary.get_session(session_id).turn_count == 3)
            assert transcript_lengths == [2]
            recorder.record(session_id)
            eventually(lambda: transcript_lengths == [2, 3])

    def test_turns_of_other_writers_do_not_interfere(
        self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str
    ) -> None:
        """Turns stored before, and turns that another writer appends, do not interfere."""
        primary.append_turns(session_id, turns("before"))
        assert recorder.turns(session_id) is None
        recorder.record(session_id, *turns("a"))
        eventually(lambda: recorder.turns(session_id) == 2)
        primary.append_turns(session_id, turns("other"))
        recorder.record(session_id, *turns("b"))
        eventually(lambda: recorder.turns(session_id) == 4)
        assert stored_texts(primary, session_id) == ["before", "a", "other", "b"]


class TestOutage:
    """Pending turns stay, in order, until the sidecar is back."""

    @pytest.mark.parametrize("how", ["killed", "stopped"])
    def test_an_outage_loses_and_duplicates_nothing(self, own_sidecar: Sidecar, how: str) -> None:
        """If the sidecar dies or hangs while turns of two sessions are recorded, all are stored once."""
        with PrimaryClient(own_sidecar.target) as primary, TurnRecorder(primary) as recorder:
            recorder.record("a", *turns(*range(10)))
            recorder.record("b", *turns(0))
            eventually(lambda: primary.get_session("b").turn_count == 1)
            assert own_sidecar.process is not None
            if how == "killed":
                own_sidecar.kill()
            else:
                own_sidecar.process.send_signal(signal.SIGSTOP)
            with promptly():
                for number in range(10, 40):
                    recorder.record("a", *turns(number))
                    recorder.record("b", *turns(number - 9))
            assert (recorder.turns("a"), recorder.turns("b")) == (40, 31)
            # Wait until an attempt has failed with an unknown outcome.
            eventually(lambda: recorder._backlog.visits.outage_failures > 1, 20)
            if how == "killed":
                own_sidecar.start()
            else:
                own_sidecar.process.send_signal(signal.SIGCONT)
            assert recorder.close(LONG)
            assert stored_texts(primary, "a") == [str(number) for number in range(40)]
            assert stored_texts(primary, "b") == [str(number) for number in range(31)]

    def test_an_outage_costs_no_timeout_per_recording(self, proxy: Proxy, primary: PrimaryClient) -> None:
        """Fifty sessions wait while the sidecar hangs, and are stored at once when it is back."""
        ids = [new_session_id() for _ in range(50)]
        with PrimaryClient(proxy.target) as client, TurnRecorder(client) as recorder:
            client.get_session(ids[0])
            proxy.drop_replies()
            for session_id in ids:
                recorder.record(session_id, *turns("x"))
            eventually(lambda: recorder._backlog.visits.outage_failures > 1)
            proxy.reset()
            with promptly():
                assert recorder.close(LONG)
        assert [reading.turn_count for reading in map(primary.get_session, ids)] == [1] * 50

    def test_an_outage_costs_no_call_per_recording(self, rejecting: RejectingServer, session_id: str) -> None:
        """A sidecar that cannot store gets at most a few calls per second, with any number of waiting sessions."""
        rejecting.code = grpc.StatusCode.UNAVAILABLE
        with PrimaryClient(rejecting.target) as client:
            recorder = TurnRecorder(client)
            for number in range(50):
                recorder.record(f"{session_id}-{number}", *turns("x"))
            assert not recorder.close(timedelta(seconds=1))
        assert 0 < len(rejecting.requests) < 20

    def test_one_line_for_an_outage(
        self, unavailable: tuple[PrimaryClient, TurnRecorder], session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One log line reports that turns are pending, another that they were dropped. Neither has their content."""
        _, recorder = unavailable
        for number in range(20):
            recorder.record(session_id, *turns(f"{CANARY} {number}"))
        eventually(lambda: recorder._backlog.visits.outage_failures > 2)
        assert not recorder.close(NOW)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
        assert "20 turns of 1 session not recorded" in caplog.records[-1].getMessage()
        recorder.record(session_id, *turns("x"))
        assert "1 turn not recorded: the recorder is closed" in caplog.text

    def test_pending_turns_are_bounded(
        self,
        own_sidecar: Sidecar,
        session_id: str,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Beyond the bound, the newest turns are dropped. One line is logged when dropping begins, one when it ends."""
        monkeypatch.setattr(_backlog, "MAX_PENDING_TURNS", 10)
        own_sidecar.terminate()
        with PrimaryClient(own_sidecar.target) as primary, TurnRecorder(primary) as recorder:
            for number in range(25):
                recorder.record(session_id, *turns(number))
            recorder.record(new_session_id(), *turns("x"))
            assert recorder.turns(session_id) == 10
            own_sidecar.start()
            eventually(lambda: "turns are stored again; 16 were dropped" in caplog.text, 20)
            recorder.record(session_id, *turns("again"))
            assert recorder.close(LONG)
            assert stored_texts(primary, session_id) == [*map(str, range(10)), "again"]
        assert sum("dropped" in record.getMessage() for record in caplog.records) == 2

    def test_pending_bytes_are_bounded(self, unavailable: tuple[PrimaryClient, TurnRecorder], session_id: str) -> None:
        """A few long turns reach the limit in bytes."""
        recorder = unavailable[1]
        for _ in range(6):
            recorder.record(session_id, *turns(*["x" * 60_000] * 100))
        assert recorder.turns(session_id) == _backlog.MAX_PENDING_BYTES // 60_010


class TestDrift:
    """While turns are pending, readings count them."""

    def reading_during(
        self, sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, session_id: str
    ) -> tuple[PrimaryClient, TurnRecorder]:
        """Notes on 2 turns, and a recorder whose turns are never stored, while readings work."""
        primary.append_turns(session_id, turns("a", "b"))
        with observer.run(session_id) as run:
            run.write(Notes(summary="x"))

        def fail() -> None:
            raise UsageError("a sidecar that reads and does not write")

        client = PrimaryClient(sidecar.target)
        before_appends(client, fail)
        return client, TurnRecorder(client)

    def test_readings_count_pending_turns(
        self, sidecar: Sidecar, primary: PrimaryClient, observer: ObserverClient, session_id: str
    ) -> None:
        """Any client of the same sidecar in this process counts pending turns, and those of other writers."""
        client, recorder = self.reading_during(sidecar, primary, observer, session_id)
        with client:
            assert primary.get_notes(session_id, max_turns_behind=0).fresh
            recorder.record(session_id, *turns("c", "d", "e"))
            reading = primary.get_notes(session_id, max_turns_behind=2)
            assert (reading.turns_behind, reading.fresh) == (3, False)
            assert reading.stale_because == (StaleReason.TURNS_BEHIND,)
            assert primary.get_notes(session_id, max_turns_behind=3).fresh
            primary.append_turns(session_id, turns("other"))
            other, reading = primary.batch_get_notes([new_session_id(), session_id], max_turns_behind=3)
            assert other.turns_behind is None
            assert (reading.turns_behind, reading.fresh) == (4, False)
            assert primary.get_notes(session_id, current_turn=recorder.turns(session_id)).turns_behind == 4
            recorder.close(NOW)
            assert primary.get_notes(session_id).turns_behind == 1

    async def test_asyncio_readings_count_pending_turns(
        self,
        sidecar: Sidecar,
        primary: PrimaryClient,
        observer: ObserverClient,
        async_primary: AsyncPrimaryClient,
        session_id: str,
    ) -> None:
        """An asyncio client counts the turns that are pending in a blocking recorder."""
        client, recorder = self.reading_during(sidecar, primary, observer, session_id)
        with client:
            recorder.record(session_id, *turns("c"))
            assert not (await async_primary.get_notes(session_id, max_turns_behind=0)).fresh
            (reading,) = await async_primary.batch_get_notes([session_id])
            assert reading.turns_behind == 1
            recorder.close(NOW)


class TestStorable:
    """A turn that cannot be stored unchanged is adapted, and affects no other turn."""

    def stored(self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str, *recorded: Any) -> list[Turn]:
        recorder.record(session_id, *recorded)
        assert recorder.close(LONG)
        return list(primary.get_session(session_id, include_turns=True).turns)

    def test_invalid_text_is_adapted(self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
        """Lone surrogates become U+FFFD, pairs become one character, and a long text is cut between characters."""
        recorded = [
            Turn("user", "Tell me a joke."),
            Turn("prim\udfffary", "Great \ud83d"),
            Turn("user", "\ud83d\ude00"),
            Turn("user", "ä" * 70_000, extra={"interrupted": True}),
            Turn("u" * 70_000, "x"),
        ]
        joke, great, smile, long, speaker = self.stored(recorder, primary, session_id, *recorded)
        assert joke == recorded[0]
        assert (great.speaker, great.text) == ("prim\ufffdary", "Great \ufffd")
        assert smile.text == "😀"
        assert long.text.startswith("ää")
        assert long.text.endswith("ä […]")
        assert 65_400 < len(long.text.encode()) < 65_536
        assert long.extra == {"interrupted": True}
        assert speaker.text == "x"
        assert speaker.speaker.endswith("u […]")

    def test_a_text_at_the_limit_is_unchanged(
        self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str
    ) -> None:
        """The largest turn that the sidecar accepts is stored unchanged."""
        text = "x" * (65_536 - len(b"\x0a\x04user") - 4)
        fits, cut = self.stored(recorder, primary, session_id, *turns(text, text + "x"))
        assert fits.text == text
        assert cut.text.endswith("x […]")
        assert len(cut.text.encode()) == len(text)

    def test_an_invalid_extra_is_left_out(
        self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An invalid `extra` is left out and its content not logged, and the text stays."""
        deep: Any = {}
        for _ in range(16):
            deep = {CANARY: deep}
        many: list[Any] = []
        many.extend([many] * 50)
        bad = [
            {CANARY: math.nan},
            {CANARY: 2**60},
            {CANARY: object()},
            {1: CANARY},
            {CANARY: "x" * 70_000},
            {CANARY: many},
            [CANARY],
            CANARY,
            deep,
        ]
        recorded = [Turn("user", str(number), extra=cast(Any, extra)) for number, extra in enumerate(bad)]
        stored = self.stored(
            recorder, primary, session_id, *recorded, Turn("user", "x" * 60_000, extra={"a": "y" * 9000})
        )
        assert [turn.text for turn in stored] == [*map(str, range(len(bad))), "x" * 60_000]
        assert all(turn.extra == {} for turn in stored)
        (line,) = (record.getMessage() for record in caplog.records)
        assert "extra left out" in line
        assert "(9 times)" in line

    def test_a_valid_extra_is_stored(self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str) -> None:
        """A valid `extra` is stored as it was when recorded, regardless of later changes."""
        deep: dict[str, Any] = {}
        for _ in range(14):
            deep = {"deep": deep}
        extra = {"list": [1.0, "half \ud83d", None, True], "deepest": deep}
        recorder.record(session_id, Turn("user", "x", datetime.now(UTC), extra))
        extra.clear()
        (turn,) = self.stored(recorder, primary, session_id)
        assert turn.extra == {"list": [1.0, "half \ufffd", None, True], "deepest": deep}
        assert turn.time is not None

    def test_an_object_that_is_not_a_turn_is_left_out(
        self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A str, None, a dict, or a turn without text is left out and logged by its type, and the rest is stored."""
        nothing = Turn("user", cast(str, None))
        recorded = ["hello", Turn("user", "a"), None, {"text": CANARY}, nothing, [Turn("user", "x")]]
        naive = Turn(cast(str, None), "b", datetime.now())
        a, b = self.stored(recorder, primary, session_id, *recorded, naive)
        assert (a.text, b.text, b.speaker, b.time) == ("a", "b", "", None)
        for word in ("str", "NoneType", "dict", "list", "time left out"):
            assert word in caplog.text

    def test_a_sidecar_with_lower_limits(self, session_id: str, caplog: pytest.LogCaptureFixture) -> None:
        """A turn that a sidecar with lower limits rejects is cut to its limit."""
        with (
            Sidecar(flags=["--max-turn-bytes", "1024"]) as sidecar,
            PrimaryClient(sidecar.target) as primary,
            TurnRecorder(primary) as recorder,
        ):
            recorder.record(session_id, *turns("a", "x" * 5000, "b", "y" * 900, "c"))
            recorder.record(session_id, Turn("user", "d", extra={"a": "x" * 5000}))
            assert recorder.close(LONG)
            a, long, b, y, c, d = primary.get_session(session_id, include_turns=True).turns
        assert (a.text, b.text, y.text, c.text, d.text, d.extra) == ("a", "b", "y" * 900, "c", "d", {})
        assert long.text.endswith("x […]")
        assert 900 < len(long.text) < 1024
        assert "text cut" in caplog.text

    def test_a_rejected_turn_affects_no_other(
        self, primary: PrimaryClient, session_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the sidecar rejects a turn for an unknown reason, that turn is left out and the rest is stored."""
        monkeypatch.setattr("session_notes._backlog.prepare", lambda turn, *_: Storable(turn, len(turn.text), ()))
        with TurnRecorder(primary) as recorder:
            recorder.record(session_id, Turn("user", "a"), Turn("user", "b", extra={"a": math.inf}), Turn("user", "c"))
            recorder.record(new_session_id(), *turns("x"))
            assert recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["a", "c"]

    def test_an_invalid_token_costs_no_turn(self, sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
        """An invalid token is not attributed to the turns, which stay pending."""
        tokens = iter(["no token", "no token"])
        client = PrimaryClient(sidecar.target, token=lambda: next(tokens, "token"))
        with client, TurnRecorder(client) as recorder:
            recorder.record(session_id, *turns("a"))
            assert recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["a"]


BAD_IDS: dict[str, Any] = {
    "int": 42,
    "uuid": uuid.UUID(int=1),
    "none": None,
    "half a character": "a\ud83d",
    "10 KB": "a" * 10_000,
    "empty": "",
    "space": "a b",
    "list": ["a"],
}


class TestNothingRaises:
    """`record` never raises, and no argument stops the recorder."""

    @pytest.mark.parametrize("bad", BAD_IDS)
    def test_an_invalid_session_id_stops_nothing(
        self, primary: PrimaryClient, session_id: str, caplog: pytest.LogCaptureFixture, bad: str
    ) -> None:
        """An invalid session id is logged in one line. Other sessions and their runs continue."""
        submitted = []

        class Observer:
            def submit(self, session_id: str) -> None:
                submitted.append(session_id)

        with TurnRecorder(primary, cast(Any, Observer())) as recorder:
            recorder.record(BAD_IDS[bad], *turns("x"))
            assert len(caplog.records) == 1
            assert "1 turn not recorded: the session id" in caplog.text
            assert recorder.turns(BAD_IDS[bad]) is None
            recorder.record(session_id, *turns("y"))
            assert recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["y"]
        assert submitted == [session_id]

    def test_a_log_handler_that_raises_stops_nothing(
        self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A log handler of the application that raises stops nothing."""

        class Raising(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                raise OSError

        handler = Raising()
        logger = logging.getLogger("session_notes")
        logger.addHandler(handler)
        try:
            recorder.record(cast(str, 42), *turns("x"))
            recorder.record(session_id, cast(Turn, "x"), Turn("user", "y"))
            assert recorder.close(LONG)
        finally:
            logger.removeHandler(handler)
        assert stored_texts(primary, session_id) == ["y"]

    def test_an_observer_that_raises_stops_nothing(
        self, primary: PrimaryClient, session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An observer that is closed, or cannot start a thread, stops nothing."""
        closed = BackgroundObserver(lambda run: None)
        closed.close()

        class NoThread:
            def submit(self, session_id: str) -> None:
                raise RuntimeError("can't start new thread")

        for observer in (closed, cast(Any, NoThread())):
            with TurnRecorder(primary, observer) as recorder:
                recorder.record(session_id, *turns("x"))
                recorder.record(session_id, *turns("y"))
        assert stored_texts(primary, session_id) == ["x", "y"] * 2
        assert "no run was submitted: UsageError" in caplog.text
        assert "no run was submitted: RuntimeError" in caplog.text

    def test_a_missing_thread_is_started_by_the_next_recording(
        self, recorder: TurnRecorder, primary: PrimaryClient, session_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If no thread can be started, the next recording tries to start one."""

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            recorder.record(session_id, *turns("a"))
        assert recorder.turns(session_id) == 1
        recorder.record(session_id, *turns("b"))
        assert recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["a", "b"]

    def test_a_server_bug_in_one_session_blocks_no_other(
        self, sidecar: Sidecar, primary: PrimaryClient, session_id: str
    ) -> None:
        """If the sidecar cannot store turns of one session, they stay pending, and other sessions continue."""
        sick = new_session_id()
        sidecar.store.client.set(sidecar.store.key(sick), "not a hash", px=60_000)
        recorder = TurnRecorder(primary)
        recorder.record(sick, *turns("x"))
        for number in range(50):
            recorder.record(session_id, *turns(number))
        eventually(lambda: primary.get_session(session_id).turn_count == 50, 3)
        sidecar.store.client.delete(sidecar.store.key(sick))
        assert recorder.close(LONG)
        assert stored_texts(primary, sick) == ["x"]


class TestDeleted:
    """A deleted session stays deleted."""

    def test_pending_turns_are_dropped_with_their_session(
        self, proxy: Proxy, primary: PrimaryClient, session_id: str
    ) -> None:
        """Pending turns, including those in flight, are dropped. Later turns create the session anew."""
        with PrimaryClient(proxy.target) as client, TurnRecorder(client) as recorder:
            recorder.record(session_id, *turns(*range(3)))
            eventually(lambda: recorder._backlog.empty)
            proxy.drop_replies()
            recorder.record(session_id, *turns("in flight"))
            recorder.record(session_id, *turns("pending"))
            with ThreadPoolExecutor() as threads:
                deletion = threads.submit(client.delete_session, session_id, timeout=LONG)
                eventually(lambda: recorder.turns(session_id) is None)
                assert recorder._backlog._turns == 0
                proxy.reset()
                with suppress(Unavailable):  # The call may use the connection that was reset.
                    deletion.result(30)
            client.delete_session(session_id)
            assert primary.get_session(session_id).create_time is None
            recorder.record(session_id, *turns("new"))
            assert recorder.close(LONG)
            assert recorder.turns(session_id) == 1
        assert stored_texts(primary, session_id) == ["new"]

    def test_pending_turns_are_shared_by_all_spellings_of_a_target(self, session_id: str) -> None:
        """Clients of the same sidecar share pending turns, in any spelling of its address."""
        with PrimaryClient("127.0.0.1:1") as client, TurnRecorder(client) as recorder:
            recorder.record(session_id, *turns("pending"))
            for target in (
                "dns:///127.0.0.1:1",
                "dns:127.0.0.1:1",
                "localhost:1",
                "ipv4:127.0.0.1:1",
                "dns:///[::1]:1",
            ):
                with PrimaryClient(target) as other, suppress(Unavailable):
                    recorder.record(session_id, *turns("pending"))
                    other.delete_session(session_id, timeout=timedelta(seconds=0.1))
                assert recorder.turns(session_id) is None

    def test_a_deletion_waits_for_the_call_in_flight(
        self, sidecar: Sidecar, primary: PrimaryClient, session_id: str
    ) -> None:
        """A deletion waits for the call in flight, which would otherwise resurrect the session."""
        started, released = threading.Event(), threading.Event()

        def wait() -> None:
            started.set()
            assert released.wait(30)

        slow = PrimaryClient(sidecar.target)
        before_appends(slow, wait)
        with slow, TurnRecorder(slow) as recorder, ThreadPoolExecutor() as threads:
            recorder.record(session_id, *turns("a"))
            assert started.wait(30)
            deletion = threads.submit(primary.delete_session, session_id, timeout=LONG)
            with pytest.raises(TimeoutError):
                deletion.result(0.2)
            released.set()
            assert deletion.result(30)
        assert remains(sidecar, session_id) == []

    def test_record_then_delete_leaves_nothing(
        self, recorder: TurnRecorder, primary: PrimaryClient, sidecar: Sidecar
    ) -> None:
        """A deletion right after a recording leaves nothing, and waits only for the call in flight."""
        ids = [new_session_id() for _ in range(50)]
        for session_id in ids:
            recorder.record(session_id, *turns("a"))
            recorder.record(session_id, *turns("b"))
            primary.delete_session(session_id)
        assert recorder.close(LONG)
        assert [remains(sidecar, session_id) for session_id in ids] == [[]] * 50

    async def test_asyncio_drops_pending_turns(self, async_primary: AsyncPrimaryClient, sidecar: Sidecar) -> None:
        """The asyncio client drops pending turns as well."""
        ids = [new_session_id() for _ in range(20)]
        async with AsyncTurnRecorder(async_primary) as recorder:
            for session_id in ids:
                recorder.record(session_id, *turns("a"))
                await asyncio.sleep(0)
                recorder.record(session_id, *turns("b"))
                await async_primary.delete_session(session_id)
        assert [remains(sidecar, session_id) for session_id in ids] == [[]] * 20

    async def test_a_blocking_deletion_in_a_loop(
        self, async_primary: AsyncPrimaryClient, primary: PrimaryClient, sidecar: Sidecar, session_id: str
    ) -> None:
        """A blocking deletion in an event loop waits for the call in flight only as long as that call needs."""
        async with AsyncTurnRecorder(async_primary) as recorder:
            recorder.record(session_id, *turns("a"))
            await asyncio.sleep(0)
            assert primary.delete_session(session_id, timeout=timedelta(seconds=5)) in (True, False)
        assert remains(sidecar, session_id) == []

    def test_a_session_deleted_elsewhere_is_created_anew(
        self, recorder: TurnRecorder, primary: PrimaryClient, session: Any, session_id: str
    ) -> None:
        """If another process deletes a session, a conversation that continues creates it anew."""
        recorder.record(session_id, *turns("a", "b"))
        eventually(lambda: primary.get_session(session_id).turn_count == 2)
        session.delete()
        recorder.record(session_id, *turns("c"))
        assert recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["c"]


def run(program: str, target: str, session_id: str, *, signalled: int | None = None) -> tuple[str, float]:
    """Run a program that records and ends, and return its stderr and how long its end was delayed."""
    command = [sys.executable, "-c", program, target, session_id]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if signalled is not None:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signalled)
    output, errors = process.communicate(timeout=60)
    return errors, float(output or "0")


# Handlers run in reverse order of registration.
BLOCKING = """
import atexit, sys, time
atexit.register(lambda: print(time.monotonic() - ended))
from session_notes import *
target, session = sys.argv[1:]
ended = time.monotonic()
"""
python_3_12_starts_no_threads = pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="Python 3.12 starts no threads in exit handlers"
)
ENDS: dict[str, str] = {
    "end": "recorder = TurnRecorder(PrimaryClient(target))\nrecorder.record(session, Turn('user', 'last words'))",
    "exit": "recorder = TurnRecorder(PrimaryClient(target))\n"
    "recorder.record(session, Turn('user', 'last words')); sys.exit(3)",
    "client closed": "with PrimaryClient(target) as client:\n"
    "    recorder = TurnRecorder(client)\n    recorder.record(session, Turn('user', 'last words'))",
    "function": "def main():\n    recorder = TurnRecorder(PrimaryClient(target))\n"
    "    recorder.record(session, Turn('user', 'last words'))\nmain()",
    "asyncio": "import asyncio\nasync def main():\n    async with AsyncPrimaryClient(target) as client:\n"
    "        AsyncTurnRecorder(client).record(session, Turn('user', 'last words'))\nasyncio.run(main())",
    "loop stopped": "import asyncio\nasync def main():\n    client = await AsyncPrimaryClient(target).__aenter__()\n"
    "    AsyncTurnRecorder(client).record(session, Turn('user', 'last words'))\n    await asyncio.sleep(0)\n"
    "loop = asyncio.new_event_loop()\nloop.run_until_complete(main())",
    "handler": "recorder = TurnRecorder(PrimaryClient(target))\n"
    "atexit.register(lambda: recorder.record(session, Turn('user', 'last words')))",
    "handler before": "recorder = None\natexit.register(lambda: recorder.record(session, Turn('user', 'last words')))\n"
    "recorder = TurnRecorder(PrimaryClient(target)); recorder.record(session)",
    "multiprocessing": "import multiprocessing\ndef main():\n    recorder = TurnRecorder(PrimaryClient(target))\n"
    "    recorder.record(session, Turn('user', 'last words'))\n"
    "if __name__ == '__main__':\n    child = multiprocessing.get_context('fork').Process(target=main)\n"
    "    child.start(); child.join(10)",
}


IMPORTED_IN_CHILD = """
import multiprocessing, sys

def main(target, session):
    from session_notes import PrimaryClient, Turn, TurnRecorder
    TurnRecorder(PrimaryClient(target)).record(session, Turn("user", "last words"))

if __name__ == "__main__":
    method, *arguments = sys.argv[1:]
    child = multiprocessing.get_context(method).Process(target=main, args=arguments)
    child.start()
    child.join()
"""


class TestExit:
    """Turns recorded just before the process ends are stored, or the log reports them as lost."""

    @pytest.mark.parametrize(
        "how",
        [pytest.param(how, marks=python_3_12_starts_no_threads) if "handler" in how else how for how in ENDS],
    )
    def test_the_last_turns_are_stored(
        self, sidecar: Sidecar, primary: PrimaryClient, session_id: str, how: str
    ) -> None:
        """The last turns are stored for every end of the process that Python can detect."""
        errors, seconds = run(BLOCKING + ENDS[how], sidecar.target, session_id)
        assert errors == ""
        assert seconds < 2
        assert stored_texts(primary, session_id) == ["last words"]

    @pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
    def test_the_last_turns_of_a_child_that_imports_the_package_are_stored(
        self, sidecar: Sidecar, primary: PrimaryClient, session_id: str, tmp_path: Path, method: str
    ) -> None:
        """The last turns of a child of multiprocessing are stored, also if its parent has not imported the package."""
        program = tmp_path / "program.py"
        program.write_text(IMPORTED_IN_CHILD)
        command = [sys.executable, str(program), method, sidecar.target, session_id]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=True)
        assert done.stderr == ""
        assert stored_texts(primary, session_id) == ["last words"]

    def test_an_interrupt_loses_nothing(self, sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
        """Ctrl-C, with Python's traceback, loses no turn."""
        program = BLOCKING + ENDS["end"] + "\nprint('ready', flush=True)\nwhile True: time.sleep(0.05)"
        errors, _ = run(program, sidecar.target, session_id, signalled=signal.SIGINT)
        assert errors.count("Traceback") == 1
        assert "KeyboardInterrupt" in errors
        assert stored_texts(primary, session_id) == ["last words"]

    @pytest.mark.parametrize("how", ["end", "asyncio"])
    @pytest.mark.parametrize("where", ["unreachable", "silent"])
    def test_lost_turns_are_logged(self, request: pytest.FixtureRequest, session_id: str, how: str, where: str) -> None:
        """Lost turns are reported in one last line, without a traceback, after 2 s."""
        errors, seconds = run(BLOCKING + ENDS[how], request.getfixturevalue(where), session_id)
        assert "1 turn of 1 session not recorded" in errors.splitlines()[-1]
        assert "Traceback" not in errors
        assert "last words" not in errors
        assert 1.9 < seconds < 4

    def test_an_end_without_pending_turns_is_not_delayed(
        self, sidecar: Sidecar, unreachable: str, session_id: str
    ) -> None:
        """A process whose turns are stored, or that recorded nothing, ends without delay."""
        stored = BLOCKING + ENDS["end"] + "\nwhile not recorder._backlog.empty: time.sleep(0.01)"
        for program, target in (
            (stored, sidecar.target),
            (BLOCKING + "TurnRecorder(PrimaryClient(target))", unreachable),
        ):
            errors, seconds = run(program + "\nended = time.monotonic()", target, session_id)
            assert errors == ""
            assert seconds < 1.5


class TestForks:
    """A forked child starts without pending turns, and works."""

    def test_a_child_records(self, sidecar: Sidecar, primary: PrimaryClient, session_id: str) -> None:
        """Pending turns remain with the parent. The child records its own turns, and closes without waiting."""
        program = """
import os, sys, threading
from session_notes import *
target, session = sys.argv[1:]
recorder = TurnRecorder(PrimaryClient(target))
recorder.record(session, Turn("user", "a"))
with recorder._backlog.changed:
    recorder._backlog.changed.wait_for(lambda: recorder._backlog.empty)
    recorder.record(session, Turn("user", "b"))  # Pending: the thread needs the lock that this program holds.
    child = os.fork()
if child == 0:
    assert recorder.turns(session) is None
    recorder.record(session + "-child", Turn("user", "from the child"))
    os._exit(0 if recorder.close() else 1)
print(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
        # As in an application. These tests have gRPC's own fork support switched off.
        environment = {name: text for name, text in os.environ.items() if not name.startswith("GRPC_")}
        # Since 3.12, Python warns of every fork of a process with threads.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, sidecar.target, session_id]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert stored_texts(primary, session_id) == ["a", "b"]
        assert stored_texts(primary, f"{session_id}-child") == ["from the child"]


class TestAsyncio:
    """The asyncio recorder keeps the same promises."""

    async def test_turns_are_recorded(
        self, async_primary: AsyncPrimaryClient, primary: PrimaryClient, observer: ObserverClient, session_id: str
    ) -> None:
        """Turns from the loop and from other threads are stored in order, and a run follows."""
        with BackgroundObserver(lambda run: Notes(), brakes=False, client=observer) as background:
            async with AsyncTurnRecorder(async_primary, background) as recorder:
                for number in range(100):
                    recorder.record(session_id, *turns(number))
                assert recorder.turns(session_id) == 100
                assert await recorder.close()
                assert recorder.turns(session_id) == 100
            assert stored_texts(primary, session_id) == [str(number) for number in range(100)]
            eventually(lambda: primary.get_notes(session_id).ready)

    async def test_a_thread_may_record(
        self, async_primary: AsyncPrimaryClient, primary: PrimaryClient, session_id: str
    ) -> None:
        """A callback in another thread, as of a telephony library, may record."""
        async with AsyncTurnRecorder(async_primary) as recorder:
            for number in range(3):
                await asyncio.to_thread(recorder.record, session_id, *turns(number))
                await asyncio.to_thread(eventually, lambda: recorder._backlog.empty)
        assert stored_texts(primary, session_id) == ["0", "1", "2"]

    async def test_an_outage_loses_nothing(self, proxy: Proxy, primary: PrimaryClient, session_id: str) -> None:
        """Lost replies, and turns recorded during an outage, lose and duplicate nothing."""
        async with AsyncPrimaryClient(proxy.target) as client, AsyncTurnRecorder(client) as recorder:
            await client.get_session(session_id)
            proxy.drop_replies()
            recorder.record(session_id, *turns("a"))
            await asyncio.to_thread(eventually, lambda: primary.get_session(session_id).turn_count == 1)
            recorder.record(session_id, *turns("b"))
            await asyncio.to_thread(eventually, lambda: recorder._backlog.visits.outage_failures > 0)
            proxy.reset()
            assert await recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["a", "b"]

    async def test_a_silent_sidecar_delays_closing_by_its_timeout(
        self, silent: str, session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Closing takes as long as its timeout, and leaves no task."""
        with promptly():
            async with AsyncPrimaryClient(silent) as client:
                recorder = AsyncTurnRecorder(client)
                recorder.record(session_id, *turns("a"))
                assert not await recorder.close(timedelta(seconds=0.2))
        assert len(asyncio.all_tasks()) == 1
        assert "1 turn of 1 session not recorded" in caplog.text

    async def test_nothing_raises(
        self, async_primary: AsyncPrimaryClient, primary: PrimaryClient, session_id: str
    ) -> None:
        """Neither an invalid id, nor an object that is not a turn, nor a closed recorder raises."""
        async with AsyncTurnRecorder(async_primary) as recorder:
            for bad in BAD_IDS.values():
                recorder.record(bad, *turns("x"))
            recorder.record(session_id, cast(Turn, None), Turn("user", "\ud83d"))
        recorder.record(session_id, *turns("y"))
        assert stored_texts(primary, session_id) == ["\ufffd"]

    async def test_another_loop_cannot_close_the_recorder(
        self, sidecar: Sidecar, primary: PrimaryClient, session_id: str
    ) -> None:
        """Another event loop cannot wait for the recorder's task: closing it there raises, and it stays open."""
        async with AsyncPrimaryClient(sidecar.target) as client, AsyncTurnRecorder(client) as recorder:
            recorder.record(session_id, *turns("a"))
            with pytest.raises(UsageError, match="close this recorder in the event loop"):
                await asyncio.to_thread(lambda: asyncio.run(recorder.close()))
            recorder.record(session_id, *turns("b"))
        assert stored_texts(primary, session_id) == ["a", "b"]


class TestWrongKind:
    """An object of the wrong kind is rejected on creation, with the right one."""

    def test_the_wrong_kind_is_rejected(self, primary: PrimaryClient) -> None:
        """A blocking object in place of an asyncio one, the reverse, and an object that is neither are rejected."""

        class AsyncObserver:
            async def __aenter__(self) -> None: ...
            def submit(self, session_id: str) -> None: ...

        wrong: list[tuple[Callable[[], object], str]] = [
            (lambda: TurnRecorder(cast(Any, AsyncPrimaryClient("127.0.0.1:1"))), "AsyncTurnRecorder"),
            (lambda: AsyncTurnRecorder(cast(Any, primary)), "use TurnRecorder"),
            (lambda: TurnRecorder(primary, cast(Any, AsyncObserver())), "AsyncTurnRecorder"),
            (lambda: TurnRecorder(cast(Any, "127.0.0.1:1")), "not str"),
            (lambda: TurnRecorder(primary, cast(Any, ObserverClient("127.0.0.1:1"))), "not ObserverClient"),
            (lambda: TurnRecorder(primary, timeout=cast(Any, 1)), "timedelta"),
            (lambda: TurnRecorder(primary, timeout=timedelta()), "timeout must be above 0"),
            (lambda: AsyncTurnRecorder(AsyncPrimaryClient("127.0.0.1:1"), timeout=timedelta(-1)), "must be above 0"),
            (lambda: TurnRecorder(cast(Any, PrimaryClient)), "not the class PrimaryClient"),
            (lambda: AsyncTurnRecorder(cast(Any, AsyncPrimaryClient)), "not the class AsyncPrimaryClient"),
            (lambda: TurnRecorder(primary, cast(Any, BackgroundObserver)), "not the class BackgroundObserver"),
        ]
        for make, words in wrong:
            with pytest.raises(InvalidArgument, match=words):
                make()
        with pytest.raises(TypeError):
            wrong[0][0]()


def test_a_rejected_batch_is_sent_turn_by_turn(rejecting: RejectingServer, session_id: str) -> None:
    """A rejection that names no turn costs one call per turn, and then ends."""
    status = status_pb2.Status()
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="MALFORMED_MESSAGE", domain="session-notes"))
    rejecting.code, rejecting.details = grpc.StatusCode.INVALID_ARGUMENT, status.SerializeToString()
    with PrimaryClient(rejecting.target) as client, TurnRecorder(client) as recorder:
        recorder.record(session_id, *turns("a", "b", "c"))
        assert recorder.close(LONG)
    assert len(rejecting.requests) == 4
