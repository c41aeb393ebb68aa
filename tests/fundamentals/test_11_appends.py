"""Rule 11: an append is done once per id."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from session_notes.v1.session_state_pb2 import AppendTurnsResponse
from session_notes.v1.turn_pb2 import Turn
from session_notes_server.store.limits import REMEMBERED_APPENDS

from tests.stores import Store
from tests.support import SessionCalls, eventually, new_session_id, refused, struct, turns, value

SAID = [Turn(speaker="user", text="one"), Turn(speaker="agent", text="two", extra=struct({"a": 1}))]


def said(count: int, duplicate: bool) -> AppendTurnsResponse:
    """Return the expected response."""
    return AppendTurnsResponse(turn_count=count, duplicate=duplicate)


def refused_as_deleted(session: SessionCalls, append_id: str) -> None:
    """Assert that an append with this id is refused, also with the turn count of a session that does not exist."""
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.append(SAID, append_id)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.append(SAID, append_id, expected_turn_count=0)


@pytest.mark.parametrize("append_id", ["", "a"])
def test_duplicate_is_always_present(session: SessionCalls, append_id: str) -> None:
    """The response to a first append has a present `duplicate: false`, with and without an id."""
    answer = session.append(SAID, append_id)
    assert (answer.HasField("duplicate"), answer.duplicate) == (True, False)


@pytest.mark.parametrize("expected", [{}, {"expected_turn_count": 1}, {"expected_turn_count": 99}], ids=str)
def test_the_same_append_again_is_a_duplicate(session: SessionCalls, store: Store, expected: dict[str, int]) -> None:
    """The same id with the same turns returns the count of the first call, whatever count is expected, and changes
    nothing."""
    session.append_turns(1)
    assert session.append(SAID, "a", expected_turn_count=1) == said(3, duplicate=False)
    session.append(SAID, "b")
    before, state = store.dump(session.id), session.get_session(include_turns=True)
    assert session.append(SAID, "a", **expected) == said(3, duplicate=True)
    assert store.dump(session.id) == before
    after = session.get_session(include_turns=True)
    assert (after.update_time, list(after.turns)) == (state.update_time, list(state.turns))


def test_without_an_id_turns_are_appended_again(session: SessionCalls) -> None:
    """Without an id, equal turns are other turns."""
    assert [session.append(SAID) for _ in range(2)] == [said(2, duplicate=False), said(4, duplicate=False)]


def test_the_order_of_a_map_does_not_count(session: SessionCalls) -> None:
    """Turns are compared as messages: the same `extra` in another order on the wire is a duplicate."""
    entries = [Struct(fields={f"key-{number}": value(number)}).SerializeToString() for number in range(8)]
    answers = []
    for wire in (b"".join(entries), b"".join(reversed(entries))):
        turn = b"\x22" + bytes([len(wire) & 0x7F | 0x80, len(wire) >> 7]) + wire
        request = b"\x0a" + bytes([len(session.id)]) + session.id.encode() + b"\x22\x01a"
        request += b"\x12" + bytes([len(turn) & 0x7F | 0x80, len(turn) >> 7]) + turn
        answers.append(AppendTurnsResponse.FromString(session.call("SessionState/AppendTurns", request)))
    assert answers == [said(1, duplicate=False), said(1, duplicate=True)]


@pytest.mark.parametrize(
    "others",
    [
        pytest.param([SAID[0], Turn(speaker="agent", text="other", extra=struct({"a": 1}))], id="another text"),
        pytest.param([SAID[0], Turn(speaker="agent", text="two", extra=struct({"a": 2}))], id="another extra"),
        pytest.param(SAID[:1], id="fewer turns"),
        pytest.param([*SAID, Turn()], id="another empty turn"),
        pytest.param(SAID[::-1], id="another order"),
    ],
)
@pytest.mark.parametrize("expected", [{}, {"expected_turn_count": 2}, {"expected_turn_count": 99}], ids=str)
def test_other_turns_already_exist(
    session: SessionCalls, store: Store, others: list[Turn], expected: dict[str, int]
) -> None:
    """The same id with other turns is ALREADY_EXISTS, whatever count is expected, and changes nothing."""
    session.append(SAID, "a")
    before = store.dump(session.id)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "TURNS_ALREADY_APPENDED"):
        session.append(others, "a", **expected)
    assert store.dump(session.id) == before


def test_a_refused_append_does_not_use_up_its_id(session: SessionCalls, store: Store) -> None:
    """After a TURN_COUNT_MISMATCH nothing is remembered, and the id can append any turns."""
    session.append_turns(1)
    before = store.dump(session.id)
    with refused(grpc.StatusCode.ABORTED, "TURN_COUNT_MISMATCH"):
        session.append(SAID, "a", expected_turn_count=0)
    assert store.dump(session.id) == before
    assert session.append(SAID[:1], "a", expected_turn_count=1) == said(2, duplicate=False)


def test_ids_belong_to_a_session(session: SessionCalls) -> None:
    """Two sessions may use the same id."""
    session.append(SAID, "a")
    assert SessionCalls(session.channel, new_session_id()).append(SAID[:1], "a") == said(1, duplicate=False)


def test_append_ids_are_no_run_ids(session: SessionCalls) -> None:
    """An append and a run may have the same id, also after a deletion."""
    session.append(SAID, "a")
    assert session.begin_run("a").run.number == 1
    assert set(session.get_session().notes) == {"default"}
    session.begin_run("b", observer="a")
    assert session.append(SAID, "b") == said(4, duplicate=False)
    session.delete()
    session.begin_run("c")
    session.delete()
    assert session.append(SAID, "c") == said(2, duplicate=False)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_DELETED"):
        session.begin_run("b", observer="a")
    assert session.begin_run("b").run.number == 1


def test_the_last_200_ids_are_remembered(session: SessionCalls, store: Store) -> None:
    """A session remembers its last 200 append ids, in the order of the appends, and no more."""
    assert REMEMBERED_APPENDS == 200
    for number in range(450):
        assert not session.append(1, f"a-{number}").duplicate
    assert [session.append(1, f"a-{number}") for number in (449, 250)] == [said(450, True), said(251, True)]
    assert store.client.hlen(store.key(session.id, "ids")) == 200
    assert store.client.hlen(store.key(session.id, "runs")) == 200
    assert session.append(1, "a-249") == said(451, duplicate=False)
    assert session.append(1, "a-250") == said(452, duplicate=False)
    assert session.append(1, "a-251") == said(453, duplicate=False)
    assert session.append(1, "a-253") == said(254, duplicate=True)


def test_a_large_append_is_compared_too(session: SessionCalls) -> None:
    """Turns that no longer fit into the transcript still make a duplicate."""
    many = turns(2500)
    assert session.append(many, "a") == said(2500, duplicate=False)
    assert session.append(many, "a") == said(2500, duplicate=True)
    with refused(grpc.StatusCode.ALREADY_EXISTS, "TURNS_ALREADY_APPENDED"):
        session.append([Turn(), *many[1:]], "a")


def test_ids_expire_with_the_session(session: SessionCalls) -> None:
    """When the session has expired, its ids are unknown."""
    session.append(SAID, "a")
    session.update_session(ttl=timedelta(milliseconds=30))
    eventually(lambda: not session.get_session().HasField("create_time"))
    assert session.append(SAID[:1], "a") == said(1, duplicate=False)


def test_concurrent_retries_append_once(session: SessionCalls) -> None:
    """Of concurrent appends with one id, one appends."""
    for number in range(10):
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _, number=number: session.append(SAID, f"a-{number}"), range(8)))
        assert Counter(answer.duplicate for answer in answers) == {False: 1, True: 7}
        assert {answer.turn_count for answer in answers} == {2 * number + 2}


def test_an_id_known_at_the_deletion_is_refused(session: SessionCalls, store: Store) -> None:
    """A late retry does not bring a deleted session back. Another id creates it anew."""
    session.append(SAID, "a")
    session.delete()
    before = store.dump(session.id)
    refused_as_deleted(session, "a")
    assert store.dump(session.id) == before
    assert session.append(SAID, "b", expected_turn_count=0) == said(2, duplicate=False)
    refused_as_deleted(session, "a")


def test_only_the_ids_stay_after_a_deletion(session: SessionCalls, store: Store) -> None:
    """After a deletion, of an append only the id is left, for an hour: no turn, no digest of turns."""
    for number in range(250):
        session.append(1, f"a-{number}")
    session.delete()
    assert store.keys(session.id) == [store.key(session.id, "deleted").encode()]
    left: dict[bytes, bytes] = store.client.hgetall(store.key(session.id, "deleted"))
    assert set(left) == {f" a-{number}".encode() for number in range(50, 250)}
    assert all(number.isdigit() for number in left.values())
    (ttl_ms,) = store.ttls_ms(session.id).values()
    assert 59 * 60_000 < ttl_ms <= 60 * 60_000


def test_ids_of_earlier_deletions_are_refused(session: SessionCalls) -> None:
    """After further deletions, the ids of the first are still refused."""
    for append_id in ("first", "second", "third"):
        session.append(SAID, append_id)
        session.delete()
    for append_id in ("first", "second", "third"):
        refused_as_deleted(session, append_id)


def test_late_retries_do_not_restore_deleted_data(session: SessionCalls, store: Store) -> None:
    """Retries during the deletion do not bring turns back."""
    for number in range(200):
        session.append([Turn(text="canary-9f2c")], f"a-{number}")

    def retry(number: int) -> bool:
        try:
            return session.append([Turn(text="canary-9f2c")], f"a-{number}").duplicate
        except grpc.RpcError as error:
            return bool(error.code() is grpc.StatusCode.FAILED_PRECONDITION)

    with ThreadPoolExecutor(8) as pool:
        retries = pool.map(retry, range(200))
        session.delete()
        assert all(retries)
    assert store.holding("canary-9f2c", session.id) == []
    assert session.get_session().turn_count == 0
