"""Malformed input: whatever bytes come, a caller hears what is wrong, and what is accepted reads back the same."""

import re
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.notes_pb2 import Notes

from tests.support import SessionCalls, Sidecar, new_session_id, refused, status_of

METHODS = {
    f"{service.name}/{method.name}": GetMessageClass(method.input_type)
    for file in (session_notes_pb2, session_state_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
RPCS = some.sampled_from(sorted(METHODS))
TOLD = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

# Tags, lengths and values that make parsers of protobuf go far.
_PIECES = some.one_of(
    some.binary(max_size=40),
    some.integers(1, 20).flatmap(
        lambda number: some.sampled_from([bytes([number << 3 & 0xFF | kind]) for kind in range(6)])
    ),
    some.sampled_from(
        [b"\x00", b"\xff" * 9 + b"\x01", b"\x80" * 11, b"\x0a\xff\xff\xff\xff\x0f", b"\x12\x00", b"{a}", b"*"]
    ),
    some.binary(max_size=60).map(lambda data: b"\x0a" + bytes([len(data)]) + data),
)
NOISE = some.lists(_PIECES, max_size=12).map(b"".join)
TEXTS = some.text(max_size=60)
NUMBERS = some.floats(0, 1) | some.sampled_from([0.0, 1.0, 5e-324])
VALUES: Any = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def fuzzed(sidecar: Sidecar, session: SessionCalls, examples: int, strategy: Any, check: Callable[[Any], None]) -> None:
    """Runs a check on so many examples; the sidecar is the same process afterwards, and logged no bug."""
    assert sidecar.process is not None
    pid = sidecar.process.pid
    logged_before = len(sidecar.log)

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example: Any) -> None:
        check(example)

    run()
    assert sidecar.running
    assert sidecar.process.pid == pid
    logged = sidecar.log[logged_before:]
    assert "Traceback" not in logged
    assert " error " not in logged


def test_any_bytes_to_any_method(sidecar: Sidecar, session: SessionCalls, effort: Callable[[int, int], int]) -> None:
    """Random bytes to all methods: OK or an error that says what is wrong; never INTERNAL, UNKNOWN or a crash."""

    def check(example: tuple[str, bytes]) -> None:
        assert status_of(lambda: session.call(*example)) in TOLD

    fuzzed(sidecar, session, effort(400, 100_000), some.tuples(RPCS, NOISE), check)


def test_a_valid_request_with_bytes_changed(
    sidecar: Sidecar, session: SessionCalls, effort: Callable[[int, int], int]
) -> None:
    """Requests that name a session, with noise after them: further than the parser, and still never a bug."""

    def check(example: tuple[str, bytes, bytes]) -> None:
        rpc, noise, name = example
        valid = METHODS[rpc](
            **({"session_id": session.id} if "session_id" in METHODS[rpc].DESCRIPTOR.fields_by_name else {})
        )
        assert status_of(lambda: session.call(rpc, valid.SerializeToString() + noise + name)) in TOLD

    fuzzed(sidecar, session, effort(400, 100_000), some.tuples(RPCS, NOISE, some.binary(max_size=3)), check)


def test_any_id(sidecar: Sidecar, session: SessionCalls, effort: Callable[[int, int], int]) -> None:
    """Ids of any text: taken, or INVALID_ARGUMENT; what was taken is found under this id and no other."""

    def check(name: str) -> None:
        calls = SessionCalls(session.channel, name)
        end = status_of(lambda: calls.write_notes("run-1", f"of {name}"))
        is_id = re.fullmatch(r"[!-z|~]{1,256}", name)  # Printable ASCII without space, { or }.
        assert end == (grpc.StatusCode.OK if is_id else grpc.StatusCode.INVALID_ARGUMENT)
        if end == grpc.StatusCode.OK:
            assert calls.get_notes().notes.summary == f"of {name}"
        else:
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                calls.get_notes()

    fuzzed(sidecar, session, effort(100, 20_000), some.text(max_size=20) | some.from_regex(r"[!-z|~]{1,4}"), check)


def test_what_is_accepted_reads_back_the_same(
    sidecar: Sidecar, session: SessionCalls, effort: Callable[[int, int], int]
) -> None:
    """Any notes and any session fields that are taken come back as they were, to the bit."""

    def check(example: tuple[dict[str, float], list[str], str, dict[str, Any]]) -> None:
        coverage, suggestions, summary, extra = example
        calls = SessionCalls(session.channel, new_session_id())
        notes = Notes(coverage=coverage, follow_up_suggestions=suggestions, summary=summary)
        notes.extra.update(extra)
        if status_of(lambda: calls.write_notes("run-1", notes)) == grpc.StatusCode.OK:
            assert calls.get_notes().notes == notes

    texts = some.dictionaries(TEXTS, VALUES, max_size=5)
    strategy = some.tuples(some.dictionaries(TEXTS, NUMBERS, max_size=4), some.lists(TEXTS, max_size=3), TEXTS, texts)
    fuzzed(sidecar, session, effort(100, 20_000), strategy, check)
