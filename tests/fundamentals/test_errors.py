"""Errors: invalid input is rejected with the name of the field, and the store is unchanged."""

import math
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from session_notes.v1.notes_pb2 import Issue, Notes
from session_notes.v1.session_notes_pb2 import BatchGetNotesRequest, GetNotesRequest
from session_notes.v1.turn_pb2 import Turn

from tests.fundamentals.inputs import ALL_RPCS, fields_of, nested_list, nested_struct, request_of
from tests.stores import Store
from tests.support import SessionCalls, refused, value

CENTURY = 36525 * 24 * 3600
TOO_LONG = Duration(seconds=CENTURY * 2)
NO_DURATION = Duration(seconds=315_576_000_001)
MIXED_SIGNS = Duration(seconds=1, nanos=-1)
TOO_MANY_NANOS = Duration(seconds=1, nanos=10**9)
NEGATIVE = Duration(nanos=-1)
ZERO = Duration()

BAD_IDS = [
    ("a" * 257, "longer than 256 bytes"),
    ("a b", "a space"),
    ("a\tb", "a tab"),
    ("a\n", "a newline"),
    ("a\0b", "a NUL"),
    ("{a}", "braces: they would move the key to another slot"),
    ("a}", "a closing brace"),
    ("\x7f", "DEL does not print"),
    ("größe", "not ASCII"),
]


class Row(NamedTuple):
    """One invalid input."""

    rpc: str
    fields: dict[str, Any]
    field: str
    """The invalid field. A trailing `…` includes the fields below it."""
    reason: str


def extra(number: float) -> Struct:
    return Struct(fields={"a": Value(number_value=number)})


def coverage(share: float) -> Notes:
    return Notes(coverage={"budget": 0.5, "goals": share})


GET, BATCH, BEGIN = "SessionNotes/GetNotes", "SessionNotes/BatchGetNotes", "SessionNotes/BeginRun"
WRITE, FAIL, LIST = "SessionNotes/WriteNotes", "SessionNotes/FailRun", "SessionNotes/ListRuns"
RENEW, DUE = "SessionNotes/RenewRun", "SessionNotes/ListDueSessions"
UPDATE, APPEND, LIST_SESSIONS = "SessionState/UpdateSession", "SessionState/AppendTurns", "SessionState/ListSessions"

ROWS = [
    Row(GET, {"max_age": NEGATIVE}, "max_age", "a negative span"),
    Row(GET, {"max_age": MIXED_SIGNS}, "max_age", "signs that differ"),
    Row(GET, {"max_age": TOO_MANY_NANOS}, "max_age", "nanos of a whole second"),
    Row(GET, {"max_age": NO_DURATION}, "max_age", "out of a Duration's range"),
    Row(GET, {"max_snapshot_age": NEGATIVE}, "max_snapshot_age", "a negative span"),
    Row(GET, {"max_snapshot_age": NO_DURATION}, "max_snapshot_age", "out of a Duration's range"),
    Row(GET, {"current_turn": -1}, "current_turn", "a negative turn"),
    Row(GET, {"max_turns_behind": -1}, "max_turns_behind", "a negative number of turns"),
    Row(BEGIN, {"observed_turn": -1}, "observed_turn", "a negative turn"),
    Row(BEGIN, {"observed_turn": 2**53}, "observed_turn", "beyond 2^53 - 1"),
    Row(BEGIN, {"lease": ZERO}, "lease", "a lease of 0"),
    Row(BEGIN, {"lease": NEGATIVE}, "lease", "a negative span"),
    Row(BEGIN, {"lease": TOO_LONG}, "lease", "more than 100 years"),
    Row(BEGIN, {"lease": NO_DURATION}, "lease", "out of a Duration's range"),
    Row(BEGIN, {"after_turn": -1}, "after_turn", "a negative turn"),
    Row(BEGIN, {"after_turn": 2**53}, "after_turn", "beyond 2^53 - 1"),
    Row(BEGIN, {"after_turn": 0, "after_current_notes": True}, "after_current_notes", "two lower bounds"),
    Row(BEGIN, {"max_turns": -1}, "max_turns", "a negative number of turns"),
    Row(WRITE, {"notes": None}, "notes", "no notes"),
    Row(WRITE, {"notes": coverage(math.nan)}, "notes.coverage", "NaN"),
    Row(WRITE, {"notes": coverage(math.inf)}, "notes.coverage", "infinity"),
    Row(WRITE, {"notes": coverage(-math.inf)}, "notes.coverage", "minus infinity"),
    Row(WRITE, {"notes": coverage(-0.1)}, "notes.coverage", "below 0"),
    Row(WRITE, {"notes": coverage(1.1)}, "notes.coverage", "above 1"),
    Row(WRITE, {"notes": Notes(issues=[Issue(), Issue(turn=-1)])}, "notes.issues[1].turn", "a negative turn"),
    Row(WRITE, {"notes": Notes(extra=extra(math.nan))}, "notes.extra…", "NaN"),
    Row(WRITE, {"notes": Notes(extra=extra(math.inf))}, "notes.extra…", "infinity"),
    Row(WRITE, {"notes": Notes(extra=extra(2**53))}, "notes.extra…", "beyond 2^53 - 1"),
    Row(WRITE, {"notes": Notes(extra=extra(2**53 + 1))}, "notes.extra…", "2^53 + 1, not a double"),
    Row(WRITE, {"notes": Notes(extra=extra(-(2**53)))}, "notes.extra…", "below -(2^53 - 1)"),
    Row(WRITE, {"notes": Notes(extra=nested_struct(17))}, "notes.extra…", "17 structs deep"),
    Row(
        WRITE,
        {"notes": Notes(extra=Struct(fields={"a": nested_list(16)}))},
        "notes.extra…",
        "17 levels deep",
    ),
    Row(WRITE, {"observed_turn": -1}, "observed_turn", "a negative turn"),
    Row(WRITE, {"observed_turn": 2**53}, "observed_turn", "beyond 2^53 - 1"),
    Row(WRITE, {"ttl": ZERO}, "ttl", "notes that expire immediately"),
    Row(WRITE, {"ttl": NEGATIVE}, "ttl", "a negative span"),
    Row(WRITE, {"ttl": TOO_LONG}, "ttl", "more than 100 years"),
    Row(WRITE, {"ttl": MIXED_SIGNS}, "ttl", "signs that differ"),
    Row(FAIL, {"run_id": ""}, "run_id", "no run id"),
    Row(RENEW, {"run_id": ""}, "run_id", "no run id"),
    Row(RENEW, {"lease": ZERO}, "lease", "a lease of 0"),
    Row(RENEW, {"lease": NEGATIVE}, "lease", "a negative span"),
    Row(RENEW, {"lease": TOO_LONG}, "lease", "more than 100 years"),
    Row(RENEW, {"lease": NO_DURATION}, "lease", "out of a Duration's range"),
    Row(LIST, {"page_size": -1}, "page_size", "a negative page size"),
    Row(LIST, {"page_token": "garbage"}, "page_token", "not a page token"),
    Row(LIST, {"page_token": "AAAA"}, "page_token", "not a page token, but valid base64"),
    Row(DUE, {"min_turns_behind": -1}, "min_turns_behind", "a negative number of turns"),
    Row(DUE, {"min_turns_behind": 2**53}, "min_turns_behind", "beyond 2^53 - 1"),
    Row(DUE, {"min_interval": NEGATIVE}, "min_interval", "a negative span"),
    Row(DUE, {"min_interval": NO_DURATION}, "min_interval", "out of a Duration's range"),
    Row(DUE, {"min_quiet": NEGATIVE}, "min_quiet", "a negative span"),
    Row(DUE, {"min_quiet": MIXED_SIGNS}, "min_quiet", "signs that differ"),
    Row(DUE, {"page_size": -1}, "page_size", "a negative page size"),
    Row(DUE, {"page_token": "garbage"}, "page_token", "not a page token"),
    Row(LIST_SESSIONS, {"page_size": -1}, "page_size", "a negative page size"),
    Row(LIST_SESSIONS, {"page_token": "garbage"}, "page_token", "not a page token"),
    Row(UPDATE, {"expected_version": -1}, "expected_version", "a negative version"),
    Row(UPDATE, {"ttl": ZERO}, "ttl", "a session that expires immediately"),
    Row(UPDATE, {"ttl": NEGATIVE}, "ttl", "a negative span"),
    Row(UPDATE, {"ttl": TOO_LONG}, "ttl", "more than 100 years"),
    Row(UPDATE, {"ttl": NO_DURATION}, "ttl", "out of a Duration's range"),
    Row(UPDATE, {"set": {"a": value(1)}, "remove": ["b", "a"]}, "remove…|set…", "both set and removed"),
    Row(UPDATE, {"set": {"": value(1)}}, "set…", "a field without a name"),
    Row(UPDATE, {"set": {"a" * 257: value(1)}}, "set…", "a name longer than 256 bytes"),
    Row(UPDATE, {"set": {"a": Value()}}, "set…", "a value without a kind"),
    Row(UPDATE, {"set": {"a": value(math.nan)}}, "set…", "NaN"),
    Row(UPDATE, {"set": {"a": value(-math.inf)}}, "set…", "minus infinity"),
    Row(UPDATE, {"set": {"a": value(2**53)}}, "set…", "beyond 2^53 - 1"),
    Row(UPDATE, {"set": {"a": Value(struct_value=nested_struct(17))}}, "set…", "17 structs deep"),
    Row(UPDATE, {"set": {"a": nested_list(17)}}, "set…", "17 lists deep"),
    Row(APPEND, {"turns": []}, "turns", "no turns"),
    Row(APPEND, {"expected_turn_count": -1}, "expected_turn_count", "a negative count"),
    Row(APPEND, {"turns": [Turn(), Turn(extra=extra(math.nan))]}, "turns[1].extra…", "NaN"),
    Row(APPEND, {"turns": [Turn(), Turn(extra=nested_struct(17))]}, "turns[1].extra…", "17 structs deep"),
    Row(APPEND, {"turns": [Turn(time=Timestamp(seconds=-62135596801))]}, "turns[0].time", "before year 1"),
    Row(APPEND, {"turns": [Turn(time=Timestamp(seconds=253402300800))]}, "turns[0].time", "after year 9999"),
    Row(APPEND, {"turns": [Turn(time=Timestamp(nanos=10**9))]}, "turns[0].time", "nanos of a whole second"),
    Row(APPEND, {"turns": [Turn(time=Timestamp(nanos=-1))]}, "turns[0].time", "negative nanos"),
    Row(BATCH, {"requests": [GetNotesRequest(session_id="a"), GetNotesRequest()]}, "requests[1].session_id", "no id"),
    Row(BATCH, {"requests": [GetNotesRequest(session_id="a b")]}, "requests[0].session_id", "a space"),
    Row(
        BATCH,
        {"requests": [GetNotesRequest(session_id="a"), GetNotesRequest(session_id="a", observer="{b}")]},
        "requests[1].observer",
        "braces",
    ),
    Row(
        BATCH,
        {"requests": [GetNotesRequest(session_id="a")] * 3 + [GetNotesRequest(session_id="a", max_age=NEGATIVE)]},
        "requests[3].max_age",
        "a negative span",
    ),
]


def names(at_fault: str, field: str) -> bool:
    """Return whether BadRequest names the row's field."""
    return any(
        field.startswith(path.removesuffix("…")) if path.endswith("…") else field == path
        for path in at_fault.split("|")
    )


def filled(session: SessionCalls) -> SessionCalls:
    """Fill the session with data that must not change, and return it."""
    session.update_session(set={"kept": 1})
    session.append_turns(1)
    session.write_notes("written", "kept notes")
    session.begin_run("begun")
    return session


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.rpc.partition('/')[2]}: {row.field}: {row.reason}")
def test_invalid_input_is_an_invalid_argument(session: SessionCalls, store: Store, row: Row) -> None:
    """Invalid input is INVALID_ARGUMENT, BadRequest names the field, and the store is unchanged."""
    filled(session)
    before = store.dump(session.id)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.call(row.rpc, request_of(row.rpc, session.id, **row.fields))
    assert [names(row.field, field) for field in error.fields] == [True], (error.fields, row.reason)
    assert store.dump(session.id) == before


@pytest.mark.parametrize(("bad_id", "reason"), BAD_IDS, ids=[reason for _, reason in BAD_IDS])
def test_an_id_is_printable_ascii(session: SessionCalls, store: Store, bad_id: str, reason: str) -> None:
    """In every RPC, ids are at most 256 bytes of printable ASCII without space, `{` or `}`."""
    filled(session)
    before = store.dump(session.id)
    for rpc in ALL_RPCS:
        for field in {"session_id", "observer", "run_id", "append_id"} & fields_of(rpc):
            with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
                session.call(rpc, request_of(rpc, session.id, **{field: bad_id}))
            assert error.fields == [field], (rpc, reason)
    assert store.dump(session.id) == before


@pytest.mark.parametrize("rpc", [rpc for rpc in ALL_RPCS if "session_id" in fields_of(rpc)])
def test_an_empty_session_id_is_invalid(session: SessionCalls, rpc: str) -> None:
    """An empty `session_id` is INVALID_ARGUMENT in every RPC that has one."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.call(rpc, request_of(rpc, ""))
    assert error.fields == ["session_id"]


@pytest.mark.parametrize("good_id", ["a", "a" * 256, "!\"#$%&'()*+,-./:;<=>?@[\\]^_`|~", "*", "turns", "a:turns"])
def test_any_other_id_is_valid(session: SessionCalls, good_id: str) -> None:
    """Every other printable ASCII id of up to 256 bytes is valid and names only its own session."""
    calls = SessionCalls(session.channel, (good_id + session.id)[:256] if len(good_id) < 256 else session.id)
    calls.append_turns(1)
    calls.write_notes(good_id, "said", observer=good_id)
    state = calls.get_session(include_turns=True)
    assert (state.session_id, state.turn_count, set(state.notes)) == (calls.id, 1, {good_id})
    assert calls.get_notes(observer=good_id).run.run_id == good_id
    assert calls.delete().existed is True


@pytest.mark.parametrize("rpc", ALL_RPCS)
def test_malformed_bytes(session: SessionCalls, rpc: str) -> None:
    """Bytes that do not parse as the request, or text that is not UTF-8, are MALFORMED_MESSAGE."""
    for wire in (b"\xff\xff\xff\xff", b"\x0a\x7fshort"):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE") as error:
            session.call(rpc, wire)
        assert "short" not in error.text
    if "session_id" in fields_of(rpc):
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE"):
            session.call(rpc, b"\x0a\x02\xc3\x28")


def test_all_invalid_fields_are_named(session: SessionCalls) -> None:
    """BadRequest names every invalid field, not just the first."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.write_notes("a b", Notes(coverage={"goals": 2}), observer="c d", observed_turn=-1, ttl=ZERO)
    assert set(error.fields) == {"run_id", "observer", "notes.coverage", "observed_turn", "ttl"}


def test_at_most_20_fields_are_named(session: SessionCalls) -> None:
    """BadRequest names the first 20 invalid fields, so that an error stays small."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.write_notes("run-1", Notes(issues=[Issue(turn=-1)] * 500))
    assert error.fields == [f"notes.issues[{index}].turn" for index in range(20)]


def test_all_invalid_entries_are_named(session: SessionCalls) -> None:
    """BadRequest names the first 20 invalid fields over all entries of a batch."""
    good, bad = GetNotesRequest(session_id="a"), GetNotesRequest(session_id="a b", current_turn=-1)
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.call(BATCH, BatchGetNotesRequest(requests=[good, bad, GetNotesRequest(session_id="a", observer="{b}")]))
    assert error.fields == ["requests[1].session_id", "requests[1].current_turn", "requests[2].observer"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD") as error:
        session.call(BATCH, BatchGetNotesRequest(requests=[bad] * 1000))
    assert error.fields[:3] == ["requests[0].session_id", "requests[0].current_turn", "requests[1].session_id"]
    assert len(error.fields) == 20
    assert error.message.endswith("(and 1999 more)")


def test_bounds_are_inclusive(session: SessionCalls) -> None:
    """Every bound is inclusive: a value at the bound is accepted and reads back the same."""
    edge = Notes(coverage={"none": 0, "all": 1}, issues=[Issue(turn=0)], extra=nested_struct(16))
    edge.extra.fields["largest"].number_value = 2**53 - 1
    edge.extra.fields["smallest"].number_value = -(2**53 - 1)
    edge.extra.fields["lists"].CopyFrom(nested_list(15))
    session.write_notes("run-1", edge, observed_turn=2**53 - 1, ttl=Duration(seconds=36500 * 24 * 3600))
    assert session.get_notes(max_age=ZERO, max_snapshot_age=ZERO, current_turn=0, max_turns_behind=0).notes == edge
    fields = {"struct": Value(struct_value=nested_struct(16)), "list": nested_list(16), "a" * 256: value(0)}
    session.call(UPDATE, request_of(UPDATE, session.id, set=fields))
    assert dict(session.get_session().fields) == fields
    new_turns = [Turn(), Turn(extra=nested_struct(16)), Turn(time=Timestamp(seconds=-62135596800))]
    session.append_turns(new_turns)
    assert list(session.get_session(include_turns=True).turns) == new_turns
