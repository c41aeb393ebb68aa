"""Turns are appended once: across lost replies, restarts and deletions, also on a sidecar that knows no append ids."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from session_notes import (
    AsyncPrimaryClient,
    AsyncTurnRecorder,
    DeadlineExceeded,
    Overloaded,
    PrimaryClient,
    SessionDeleted,
    Turn,
    TurnRecorder,
    TurnsAlreadyAppended,
    Unavailable,
)

from tests.peers import FirstVersion, Proxy, RejectingServer
from tests.support import Sidecar, eventually

LONG = timedelta(seconds=60)


def turns(*texts: object) -> list[Turn]:
    """Return turns of a user, with an `extra` whose fields have no order on the wire."""
    return [Turn("user", str(text), extra={f"field {number}": number for number in range(20)}) for text in texts]


def stored_texts(client: PrimaryClient, session_id: str) -> list[str]:
    """Return the texts of the stored turns, in order."""
    return [turn.text for turn in client.get_session(session_id, include_turns=True, timeout=LONG).turns]


@pytest.fixture
def behind_proxy(first_version: FirstVersion) -> Iterator[Proxy]:
    """A proxy in front of a sidecar of the first version."""
    proxy = Proxy(first_version.target)
    yield proxy
    proxy.close()


class TestAppendTurns:
    """A call is repeated where that is safe, and by its id."""

    @pytest.mark.parametrize("expected", [None, 1])
    def test_a_lost_reply_is_retried(
        self, proxy: Proxy, primary: PrimaryClient, session_id: str, expected: int | None
    ) -> None:
        """If the reply is lost, the client retries, returns the turn count, and the turns are stored once."""
        with PrimaryClient(proxy.target, state_timeout=LONG) as client, ThreadPoolExecutor() as threads:
            assert client.append_turns(session_id, turns("a")) == 1
            proxy.drop_replies()
            count = threads.submit(client.append_turns, session_id, turns("b"), expected_turn_count=expected)
            eventually(lambda: primary.get_session(session_id).turn_count == 2)
            primary.append_turns(session_id, turns("other"))
            proxy.reset()
            assert count.result(30) == 2
        assert stored_texts(primary, session_id) == ["a", "b", "other"]

    async def test_a_lost_reply_is_retried_in_asyncio(
        self, proxy: Proxy, primary: PrimaryClient, session_id: str
    ) -> None:
        """The asyncio client does the same."""
        async with AsyncPrimaryClient(proxy.target, state_timeout=LONG) as client:
            assert await client.append_turns(session_id, turns("a")) == 1
            proxy.drop_replies()
            count = asyncio.ensure_future(client.append_turns(session_id, turns("b")))
            await asyncio.to_thread(eventually, lambda: primary.get_session(session_id).turn_count == 2)
            proxy.reset()
            assert await count == 2
        assert stored_texts(primary, session_id) == ["a", "b"]

    def test_the_first_version_is_not_sent_turns_twice(
        self, behind_proxy: Proxy, primary: PrimaryClient, session_id: str
    ) -> None:
        """A sidecar that ignores ids would append the turns again, so a lost reply is an error there."""
        with PrimaryClient(behind_proxy.target, state_timeout=LONG) as client, ThreadPoolExecutor() as threads:
            assert client.append_turns(session_id, turns("a")) == 1
            behind_proxy.drop_replies()
            count = threads.submit(client.append_turns, session_id, turns("b"))
            eventually(lambda: primary.get_session(session_id).turn_count == 2)
            behind_proxy.reset()
            with pytest.raises(Unavailable):
                count.result(30)
        assert stored_texts(primary, session_id) == ["a", "b"]

    def test_an_overloaded_sidecar_is_asked_again(self, rejecting: RejectingServer) -> None:
        """A call that had no effect is always retried."""
        status = status_pb2.Status()
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="session-notes"))
        rejecting.code, rejecting.details = grpc.StatusCode.RESOURCE_EXHAUSTED, status.SerializeToString()
        # The timeout may end during an attempt, or in the pause after one.
        with PrimaryClient(rejecting.target) as client, pytest.raises((Overloaded, DeadlineExceeded)):
            client.append_turns("session", turns("a"), timeout=timedelta(seconds=0.5))
        assert len(rejecting.requests) > 1
        assert len(set(rejecting.requests)) == 1, "every attempt sends the same id"

    def test_an_id_of_the_caller(self, primary: PrimaryClient, session_id: str) -> None:
        """A program that starts again repeats its append with its own id. Other turns, and a deletion, are errors."""
        for _ in range(2):
            assert primary.append_turns(session_id, turns("a"), append_id="message-1") == 1
        with pytest.raises(TurnsAlreadyAppended):
            primary.append_turns(session_id, turns("b"), append_id="message-1")
        assert primary.append_turns(session_id, turns("b")) == 2
        primary.delete_session(session_id)
        with pytest.raises(SessionDeleted):
            primary.append_turns(session_id, turns("a"), append_id="message-1")
        assert stored_texts(primary, session_id) == []


class TestRecorder:
    """A recorder's turns are stored once."""

    def test_a_lost_reply_is_recognized_by_its_id(self, proxy: Proxy, primary: PrimaryClient, session_id: str) -> None:
        """After a lost reply, the recorder sends the turns again, and reads no transcript."""
        with PrimaryClient(proxy.target) as client, TurnRecorder(client) as recorder:
            client.get_session(session_id)
            methods: list[str] = []
            watch(client, lambda method: methods.append(method))
            proxy.drop_replies()
            recorder.record(session_id, *turns("a", "b"))
            eventually(lambda: primary.get_session(session_id).turn_count == 2)
            recorder.record(session_id, *turns("c"))
            eventually(lambda: recorder._backlog.visits.outage_failures > 0)
            proxy.reset()
            assert recorder.close(LONG)
        assert set(methods) == {"AppendTurns"}
        assert stored_texts(primary, session_id) == ["a", "b", "c"]

    @pytest.mark.parametrize("other", [False, True])
    @pytest.mark.parametrize("version", ["proxy", "behind_proxy"], ids=["current", "first"])
    def test_a_lost_reply_duplicates_nothing(
        self, version: str, primary: PrimaryClient, session_id: str, request: pytest.FixtureRequest, *, other: bool
    ) -> None:
        """Stored turns are recognized, by id or in the transcript, even if another writer has appended."""
        proxy: Proxy = request.getfixturevalue(version)
        with PrimaryClient(proxy.target) as client, TurnRecorder(client) as recorder:
            client.get_session(session_id)
            proxy.drop_replies()
            recorder.record(session_id, *turns("same", "same"))
            eventually(lambda: primary.get_session(session_id).turn_count == 2)
            if other:
                primary.append_turns(session_id, turns("other"))
            recorder.record(session_id, *turns("same"))
            eventually(lambda: recorder._backlog.visits.outage_failures > 0)
            proxy.reset()
            assert recorder.close(LONG)
            assert recorder.turns(session_id) == 3 + other
        assert stored_texts(primary, session_id) == ["same", "same", *["other"] * other, "same"]

    def test_a_deletion_after_a_lost_reply(
        self, proxy: Proxy, primary: PrimaryClient, session: Any, session_id: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """If another process deletes the session meanwhile, its pending turns are dropped, not stored again."""
        with PrimaryClient(proxy.target) as client, TurnRecorder(client) as recorder:
            client.get_session(session_id)
            proxy.drop_replies()
            recorder.record(session_id, *turns("stored"))
            eventually(lambda: primary.get_session(session_id).turn_count == 1)
            recorder.record(session_id, *turns("pending"))
            session.delete()
            eventually(lambda: recorder._backlog.visits.outage_failures > 0)
            proxy.reset()
            eventually(lambda: recorder._backlog.empty)
            assert "2 turns dropped: the session was deleted" in caplog.text
            assert recorder.turns(session_id) is None
            assert primary.get_session(session_id).create_time is None
            recorder.record(session_id, *turns("anew"))
            assert recorder.close(LONG)
        assert stored_texts(primary, session_id) == ["anew"]


def watch(client: PrimaryClient, called: Callable[[str], None]) -> None:
    """Report the method of each call of a client."""
    send: Any = client._transport.send

    def watched(call: Any, *args: Any) -> Any:
        called(call.method.rpartition("/")[2])
        return send(call, *args)

    client._transport.send = watched  # type: ignore[assignment,method-assign]


RECORDINGS = 1000


class Restarts:
    """Restarts of a sidecar while a recorder stores turns, and another writer appends to the same session."""

    def __init__(self, sidecar: Sidecar, session_id: str) -> None:
        self.sidecar = sidecar
        self.session_id = session_id
        self.recorded = 0

    def restart(self) -> None:
        """Restart the sidecar four times, by SIGKILL and by SIGTERM in turn, spread over the recordings."""
        for number in range(4):
            eventually(lambda due=(number + 1) * RECORDINGS // 5: self.recorded >= due, 60)  # type: ignore[misc]
            (self.sidecar.terminate if number % 2 else self.sidecar.kill)()
            self.sidecar.start()

    def append(self) -> int:
        """Append turns as another writer, one for every ten recordings, and return their number."""
        with PrimaryClient(self.sidecar.target, state_timeout=LONG) as client:
            for number in range(RECORDINGS // 10):
                eventually(lambda due=number * 10: self.recorded > due, 60)  # type: ignore[misc]
                client.append_turns(self.session_id, turns(f"other {number}"))
        return number + 1

    def check(self, others: int) -> None:
        """Assert that every turn of both writers is stored once, each writer's in order."""
        with PrimaryClient(self.sidecar.target) as client:
            session = client.get_session(self.session_id, include_turns=True, timeout=LONG)
        assert session.turn_count == RECORDINGS + others
        stored = [turn.text for turn in session.turns]
        for writer, count in (("recorder", RECORDINGS), ("other", others)):
            numbers = [int(text.split()[1]) for text in stored if text.startswith(writer)]
            assert numbers == list(range(count))[-len(numbers) :]


@pytest.fixture
def restarts(session_id: str) -> Iterator[Restarts]:
    """A sidecar that restarts, and a session with two writers."""
    with Sidecar() as sidecar:
        yield Restarts(sidecar, session_id)


def test_restarts_lose_and_duplicate_nothing(restarts: Restarts) -> None:
    """A thousand recordings are stored once, in order, however often the sidecar restarts or is killed."""
    with PrimaryClient(restarts.sidecar.target) as client, ThreadPoolExecutor() as threads:
        others = threads.submit(restarts.append)
        restarting = threads.submit(restarts.restart)
        with TurnRecorder(client) as recorder:
            for number in range(RECORDINGS):
                recorder.record(restarts.session_id, *turns(f"recorder {number}"))
                restarts.recorded += 1
                # Few pending turns at a time, so that calls are in flight at each restart.
                eventually(lambda: pending(recorder, restarts.session_id) < 20, 60)
            restarting.result(60)
            assert recorder.close(LONG)
        restarts.check(others.result(60))


async def test_restarts_lose_and_duplicate_nothing_in_asyncio(restarts: Restarts) -> None:
    """The asyncio recorder does the same."""
    async with AsyncPrimaryClient(restarts.sidecar.target) as client:
        others = asyncio.create_task(asyncio.to_thread(restarts.append))
        restarting = asyncio.create_task(asyncio.to_thread(restarts.restart))
        async with AsyncTurnRecorder(client) as recorder:
            for number in range(RECORDINGS):
                recorder.record(restarts.session_id, *turns(f"recorder {number}"))
                restarts.recorded += 1
                await asyncio.to_thread(eventually, lambda: pending(recorder, restarts.session_id) < 20, 60)
            await restarting
            assert await recorder.close(LONG)
        restarts.check(await others)


def pending(recorder: TurnRecorder | AsyncTurnRecorder, session_id: str) -> int:
    """Return the number of pending turns of a session."""
    counts = recorder._turn_counts(session_id)
    return counts.pending if counts else 0
