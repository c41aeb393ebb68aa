"""Malformed input: any bytes get a precise status, and accepted data reads back unchanged."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings, strategies
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.notes_pb2 import Notes

from tests.faults.measures import MEBIBYTE, resident_bytes
from tests.support import SessionCalls, Sidecar, new_session_id, refused, status_of, value

METHODS = {
    f"{service.name}/{method.name}": GetMessageClass(method.input_type)
    for file in (session_notes_pb2, session_state_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
STATUSES = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

TEXTS = strategies.text(max_size=60)
NUMBERS = strategies.floats(0, 1) | strategies.sampled_from([0.0, 1.0, 5e-324])
VALUES: Any = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: strategies.lists(inner, max_size=4) | strategies.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


# Tags, lengths and values that reach deep into protobuf parsers.
_PIECES = (
    b"\x00",
    b"\xff" * 9 + b"\x01",
    b"\x80" * 11,
    b"\x0a\xff\xff\xff\xff\x0f",
    b"\x12\x00",
    b"{a}",
    b"*",
    *(bytes([number << 3 & 0xFF | kind]) for number in range(1, 21) for kind in range(6)),
)


def _piece(rng: Random) -> bytes:
    data = rng.randbytes(rng.randrange(40))
    return rng.choice((rng.choice(_PIECES), data, b"\x0a" + bytes([len(data)]) + data))


def random_request(rng: Random) -> tuple[str, bytes, bool]:
    """Draw random bytes for a random method."""
    return rng.choice(sorted(METHODS)), b"".join(_piece(rng) for _ in range(rng.randrange(12))), False


def mutated_request(rng: Random) -> tuple[str, bytes, bool]:
    """Draw a valid request and mutate its bytes, except for one in ten."""
    rpc = rng.choice(sorted(METHODS))
    data = valid_request(rpc, rng).SerializeToString()
    if rng.random() < 0.1:
        return rpc, data, True
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _mutate(rpc, data, rng)
    return rpc, data, False


def _mutate(rpc: str, data: bytes, rng: Random) -> bytes:
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    to = min(to, at + 20)
    mutation = rng.choice(("flip", "set", "insert", "delete", "double", "cut", "splice", "swap"))
    if mutation == "flip" and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if mutation == "set":
        return data[:at] + rng.choice((b"\x00", b"\x7f", b"\x80", b"\xff")) + data[at + 1 :]
    if mutation == "insert":
        return data[:at] + _piece(rng) + data[at:]
    if mutation == "delete":
        return data[:at] + data[to:]
    if mutation == "double":
        return data[:to] + data[at:to] * rng.choice((1, 1, 50)) + data[to:]
    if mutation == "cut":
        return data[:at]
    if mutation == "swap":
        return data[to:] + data[at:to] + data[:at]
    # The rest of another request, of this or any method.
    other = valid_request(rng.choice((rpc, *METHODS)), rng).SerializeToString()
    return data[:at] + other[rng.randrange(len(other) + 1) :]


_ALWAYS = {"session_id", "run_id", "notes", "turns", "requests", "seconds", "set"}
_IDS = [f"fuzzed-{number}" for number in range(40)]


def valid_request(rpc: str, rng: Random) -> Message:
    """Fill a request by its descriptor. The method accepts it if the session's state allows."""
    request: Any = METHODS[rpc]()
    _fill(request, rng)
    if rpc == "SessionNotes/BeginRun" and request.after_current_notes:
        request.ClearField("after_turn")  # They exclude each other.
    return cast(Message, request)


def _fill(message: Message, rng: Random) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name == "page_token" or (field.name not in _ALWAYS and rng.random() < 0.5):
            continue
        if field.message_type is None:
            _fill_scalar(message, field, rng)
        elif field.message_type.GetOptions().map_entry:
            for number in range(rng.randrange(4)):
                entry, name = getattr(message, field.name), f"set-{number}"
                if field.message_type.fields_by_name["value"].message_type is None:
                    entry[name] = rng.random()
                else:
                    entry[name].CopyFrom(value(_json(rng)))
        elif field.message_type.full_name == "google.protobuf.Struct":
            getattr(message, field.name).CopyFrom(value({name: _json(rng) for name in ("a", "ü", "")}).struct_value)
        elif field.is_repeated:
            for _ in range(rng.randint(1, 3)):
                _fill(getattr(message, field.name).add(), rng)
        else:
            getattr(message, field.name).SetInParent()
            _fill(getattr(message, field.name), rng)


def _fill_scalar(message: Message, field: Any, rng: Random) -> None:
    texts = ["", "said", "Grüße, 世界 \x00", "x" * 300]
    if field.name in ("session_id", "run_id", "append_id", "observer"):
        drawn: Any = rng.choice(_IDS)
    elif field.name == "remove":
        drawn = [f"remove-{number}" for number in range(rng.randrange(3))]
    elif field.enum_type is not None:
        drawn = rng.choice(field.enum_type.values).number
    elif field.cpp_type == field.CPPTYPE_STRING:
        drawn = rng.choices(texts, k=2) if field.is_repeated else rng.choice(texts)
    elif field.cpp_type == field.CPPTYPE_BOOL:
        drawn = rng.random() < 0.5
    elif field.name in ("seconds", "page_size", "nanos", "max_turns"):
        drawn = rng.choice((1, 30, 1000))
    else:
        drawn = rng.choice((0, 1, 2, 3, 2**31, 2**53 - 1))
    if isinstance(drawn, list):
        getattr(message, field.name).extend(drawn)
    else:
        setattr(message, field.name, drawn)


def _json(rng: Random, depth: int = 0) -> Any:
    kind = rng.randrange(7 if depth < 4 else 5)
    if kind == 5:
        return [_json(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {name: _json(rng, depth + 1) for name in "ab"[: rng.randrange(3)]}
    return (None, True, rng.uniform(-1e6, 1e6), "text", 2**53 - 1)[kind]


def fuzz(sidecar: Sidecar, session: SessionCalls, examples: int, strategy: Any, check: Callable[[Any], None]) -> None:
    """Run a check on examples. The sidecar must survive as the same process, without a bug in its log."""
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


class Fuzzer:
    """Concurrent calls with requests drawn from a seed.

    Args:
        seed: The seed.
        draw: Draws a method, its request, and whether the request is certainly valid.
    """

    def __init__(self, seed: int, draw: Callable[[Random], tuple[str, bytes, bool]]) -> None:
        self.statuses: dict[str, Counter[grpc.StatusCode]] = {rpc: Counter() for rpc in sorted(METHODS)}
        self.problems: list[str] = []
        self._rng, self._draw, self._seed = Random(seed), draw, seed

    def send(self, target: str, count: int) -> None:
        """Send a number of requests."""
        asyncio.run(self._send(target, count))

    async def _send(self, target: str, count: int) -> None:
        pending = iter(range(count))
        async with grpc.aio.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
            methods: dict[str, Any] = {rpc: channel.unary_unary(f"/session_notes.v1.{rpc}") for rpc in METHODS}

            async def work() -> None:
                for _ in pending:
                    rpc, data, valid = self._draw(self._rng)
                    status = grpc.StatusCode.OK
                    try:
                        await methods[rpc](data, timeout=30)
                    except grpc.aio.AioRpcError as error:
                        status = error.code()
                    self.statuses[rpc][status] += 1
                    if status not in STATUSES or (valid and status == grpc.StatusCode.INVALID_ARGUMENT):
                        self.problems.append(f"{status.name}: {rpc} {data.hex()}")

            await asyncio.gather(*(work() for _ in range(32)))

    def __str__(self) -> str:
        codes = sorted({code for counts in self.statuses.values() for code in counts}, key=lambda code: code.value[0])
        rows = [("", *(code.name for code in codes))]
        rows += [(rpc, *(str(counts[code]) for code in codes)) for rpc, counts in self.statuses.items()]
        return "\n".join(row[0].ljust(30) + "".join(f"{cell:>20}" for cell in row[1:]) for row in rows)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("draw", [random_request, mutated_request], ids=["random", "mutated"])
def test_any_bytes_to_any_method(
    draw: Callable[[Random], tuple[str, bytes, bool]],
    effort: Callable[[int, int], int],
    seed: int,
    repeat_command: str,
    print_progress: Callable[[str], None],
) -> None:
    """Random and mutated requests get OK or a precise error, never INTERNAL or a crash, and memory stays flat."""
    count = effort(1_500, 100_000)
    fuzzer = Fuzzer(seed, draw)
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        pid, began = sidecar.process.pid, time.monotonic()
        fuzzer.send(sidecar.target, count // 5)
        before = resident_bytes(sidecar) / MEBIBYTE
        fuzzer.send(sidecar.target, count - count // 5)
        seconds, after = time.monotonic() - began, resident_bytes(sidecar) / MEBIBYTE
        print_progress(f"\n{count} requests in {seconds:.0f} s; memory {before:.1f} → {after:.1f} MiB\n{fuzzer}")
        assert not fuzzer.problems, "\n".join(
            [*fuzzer.problems[:5], f"({len(fuzzer.problems)} in all); repeat with: {repeat_command}"]
        )
        assert sidecar.running
        assert sidecar.process.pid == pid
        assert after < before + 24, f"memory grew; repeat with: {repeat_command}"
        assert "Traceback" not in sidecar.log
        assert " error " not in sidecar.log
        assert sum(counts[grpc.StatusCode.OK] for counts in fuzzer.statuses.values()) > count / 100


def test_any_text_as_an_id(sidecar: Sidecar, session: SessionCalls, effort: Callable[[int, int], int]) -> None:
    """Any text as an id is accepted or INVALID_ARGUMENT, and an accepted id finds only its own session."""

    def check(name: str) -> None:
        calls = SessionCalls(session.channel, name)
        status = status_of(lambda: calls.write_notes("run-1", f"of {name}"))
        is_id = re.fullmatch(r"[!-z|~]{1,256}", name)  # Printable ASCII without space, { or }.
        assert status == (grpc.StatusCode.OK if is_id else grpc.StatusCode.INVALID_ARGUMENT)
        if status == grpc.StatusCode.OK:
            assert calls.get_notes().notes.summary == f"of {name}"
        else:
            with refused(grpc.StatusCode.INVALID_ARGUMENT):
                calls.get_notes()

    fuzz(
        sidecar,
        session,
        effort(100, 20_000),
        strategies.text(max_size=20) | strategies.from_regex(r"[!-z|~]{1,4}"),
        check,
    )


def test_accepted_data_reads_back_unchanged(
    sidecar: Sidecar, session: SessionCalls, effort: Callable[[int, int], int]
) -> None:
    """Accepted notes read back equal to what was written."""

    def check(example: tuple[dict[str, float], list[str], str, dict[str, Any]]) -> None:
        coverage, suggestions, summary, extra = example
        calls = SessionCalls(session.channel, new_session_id())
        notes = Notes(coverage=coverage, follow_up_suggestions=suggestions, summary=summary)
        notes.extra.update(extra)
        if status_of(lambda: calls.write_notes("run-1", notes)) == grpc.StatusCode.OK:
            assert calls.get_notes().notes == notes

    texts = strategies.dictionaries(TEXTS, VALUES, max_size=5)
    strategy = strategies.tuples(
        strategies.dictionaries(TEXTS, NUMBERS, max_size=4), strategies.lists(TEXTS, max_size=3), TEXTS, texts
    )
    fuzz(sidecar, session, effort(100, 20_000), strategy, check)
