"""Rules 3 to 6, 9 and 11 to 14 together: random calls in any order return what a plain Python model returns."""

from datetime import timedelta
from random import Random
from typing import Any

import grpc
import pytest
from session_notes.v1.session_notes_pb2 import (
    STALE_REASON_TURNS_BEHIND,
    STALE_REASON_TURNS_UNKNOWN,
    ListDueSessionsRequest,
    WriteOutcome,
)
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.store.limits import HISTORY_RUNS

from tests.fundamentals.model import Model, Refused
from tests.support import Refusal, SessionCalls, new_session_id

HOUR = timedelta(hours=1)
NO_TIME = timedelta(microseconds=1)
"""A lease or a ttl that has ended before the next call."""

KINDS = (*(("append", "append", "begin", "begin", "write", "write", "renew", "read") * 3), "fail", "delete")


class Player:
    """Makes random calls on one session, and compares each response with that of the model.

    Args:
        channel: A channel to the sidecar.
        rng: Draws the calls and their arguments.
    """

    def __init__(self, channel: grpc.Channel, rng: Random) -> None:
        self._session = SessionCalls(channel, new_session_id())
        self._model = Model()
        self._names: list[str] = []
        self._rng = rng
        self._calls: list[object] = []

    def play(self, kind: str) -> None:
        """Make a random call of a kind."""
        try:
            if kind == "read":
                self._read()
            else:
                self._call(kind)
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter these calls: {self._calls}") from None

    def _call(self, kind: str) -> None:
        """Compare a response, or its refusal, with that of the model."""
        arguments: dict[str, Any] = getattr(self, f"_{kind}_arguments")()
        self._calls.append((kind, {name: part if name != "texts" else len(part) for name, part in arguments.items()}))
        refusal = Refusal()
        try:
            expected = getattr(self._model, kind)(**arguments)
        except Refused as error:
            expected = error
        try:
            returned = getattr(self, f"_{kind}")(**arguments)
        except grpc.RpcError as error:
            refusal.read(error)
            returned = Refused(refusal.reason)
        if kind == "begin" and not isinstance(returned, Refused):
            assert returned[0] in expected[0], f"{returned[0]} is not one of {expected[0]}"
            returned, expected = returned[1], expected[1]
        if repr(returned) != repr(expected):
            raise AssertionError(f"{repr(returned)[:500]} is not {repr(expected)[:500]}")

    def _read(self) -> None:
        """Compare a reading, the due listing and the listed runs with the model."""
        most = self._any(None, 0, 1, 3)
        model, reading = self._model, self._session.get_notes(max_turns_behind=most)
        assert (reading.readiness, reading.ready) == (model.readiness, model.ready is not None)
        assert reading.notes.summary == (model.ready.notes if model.ready else "")
        behind = reading.turns_behind if reading.HasField("turns_behind") else None
        assert behind == model.turns_behind
        stale = []
        if model.ready and most is not None and (behind is None or behind > most):
            stale = [STALE_REASON_TURNS_UNKNOWN if behind is None else STALE_REASON_TURNS_BEHIND]
        assert (reading.fresh, list(reading.stale_because)) == (model.ready is not None and not stale, stale)
        least, long_ago = self._any(0, 1, 2), self._any(False, False, True)
        assert self._due(least, HOUR if long_ago else timedelta()) == model.due(least, long_ago=long_ago)
        listed = [(run.run_id, run.number, run.state) for run in self._session.list_runs().runs]
        runs = sorted(model.runs.values(), key=lambda run: -run.number)
        assert listed == [(run.run_id, run.number, run.state) for run in runs[:HISTORY_RUNS]]
        assert self._session.get_session().turn_count == model.count

    def end(self) -> None:
        """Delete the session."""
        self._session.delete()

    def _any(self, *values: Any) -> Any:
        return self._rng.choice(values)

    def _name(self) -> str:
        """Return a new id, or one that was in use, perhaps before a deletion."""
        if not self._names or self._rng.random() < 0.3:
            self._names.append(f"id-{len(self._names)}")
            return self._names[-1]
        return self._rng.choice(self._names[-8:])

    def _append_arguments(self) -> dict[str, Any]:
        count, added = self._model.count, self._any(1, 1, 1, 2, 1999)
        append_id = self._any("", self._name(), self._name())
        # The turns of an id differ in their number only, so that some repetitions have the same turns.
        texts = [f"{append_id or count} {number} of {added}" for number in range(added)]
        return {"append_id": append_id, "texts": texts, "expected": self._any(None, None, count, count + 1)}

    def _append(self, append_id: str, texts: list[str], expected: int | None) -> tuple[int, bool]:
        content = [Turn(text=text) for text in texts]
        response = self._session.append(content, append_id, expected_turn_count=expected)
        return response.turn_count, response.duplicate

    def _begin_arguments(self) -> dict[str, Any]:
        return {
            "run_id": self._name(),
            "leased": self._any(True, False),
            "only_if_idle": self._any(False, True),
            "observed_turn": self._any(None, None, 0, 1, 2, 3),
            "after": self._any(None, None, 0, 1, 3, 2000),
            "most": self._any(0, 0, 1, 2, 1000),
        }

    def _begin(
        self, run_id: str, leased: bool, only_if_idle: bool, observed_turn: int | None, after: int | None, most: int
    ) -> tuple[str, list[tuple[int, str]]]:
        response = self._session.begin_run(
            run_id,
            lease=HOUR if leased else NO_TIME,
            only_if_idle=only_if_idle,
            observed_turn=observed_turn,
            include_transcript=True,
            max_turns=most,
            **({"after_current_notes": True} if after is None else {"after_turn": after}),
        )
        texts = [turn.text for turn in response.transcript]
        assert response.HasField("first_turn") is bool(texts)
        assert response.started is (response.run.run_id == run_id)
        return response.run.run_id, list(enumerate(texts, start=response.first_turn))

    def _write_arguments(self) -> dict[str, Any]:
        return {
            "run_id": self._name(),
            "notes": self._any("some notes", "some notes", "other notes"),
            "observed_turn": self._any(None, None, 0, 1, 2, 3),
            "expired": self._any(False, False, True),
        }

    def _write(self, run_id: str, notes: str, observed_turn: int | None, expired: bool) -> str:
        ttl = NO_TIME if expired else None
        response = self._session.write_notes(run_id, notes, observed_turn=observed_turn, ttl=ttl)
        return WriteOutcome.Name(response.outcome).removeprefix("WRITE_OUTCOME_")

    def _fail_arguments(self) -> dict[str, Any]:
        return {"run_id": self._name()}

    def _fail(self, run_id: str) -> None:
        self._session.fail_run(run_id)

    def _renew_arguments(self) -> dict[str, Any]:
        return {"run_id": self._name(), "leased": self._any(True, False)}

    def _renew(self, run_id: str, leased: bool) -> tuple[int, bool, int]:
        response = self._session.renew_run(run_id, lease=HOUR if leased else NO_TIME)
        return response.run.state, response.obsolete, response.turns_behind

    def _delete_arguments(self) -> dict[str, Any]:
        return {}

    def _delete(self) -> bool:
        return self._session.delete().existed

    def _due(self, least: int, min_interval: timedelta) -> int | None:
        """Return the session's unseen turns, if the complete listing of due sessions has it."""
        listed, token = [], ""
        while True:
            request = ListDueSessionsRequest(min_turns_behind=least, page_size=1000, page_token=token)
            request.min_interval.FromTimedelta(min_interval)
            page = self._session.notes.ListDueSessions(request, timeout=20)
            listed += [due.turns_behind for due in page.sessions if due.session_id == self._session.id]
            token = page.next_page_token
            if not token:
                assert len(listed) <= 1
                return listed[0] if listed else None


@pytest.mark.timeout(3600)
def test_any_order_of_calls_agrees_with_a_model(channel: grpc.Channel, request: pytest.FixtureRequest) -> None:
    """Appends, runs, renewals, writes, reads and deletions on two sessions return what the model returns."""
    rng = Random(request.config.option.seed)
    for _ in range(2000 if request.config.getoption("--soak") else 15):
        players = [Player(channel, rng) for _ in range(2)]
        for _ in range(rng.randint(40, 100)):
            rng.choice([*players, players[0]]).play(rng.choice(KINDS))
        for player in players:
            player.play("read")
            player.end()
