"""Malformed input: whatever bytes come, a caller hears what is wrong, and what is accepted reads back the same."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some
from session_notes.v1 import session_notes_pb2, session_state_pb2
from session_notes.v1.notes_pb2 import Notes

from tests.support import SessionCalls, Sidecar, new_session_id, refused, status_of, value

METHODS = {
    f"{service.name}/{method.name}": GetMessageClass(method.input_type)
    for file in (session_notes_pb2, session_state_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
TOLD = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}

TEXTS = some.text(max_size=60)
NUMBERS = some.floats(0, 1) | some.sampled_from([0.0, 1.0, 5e-324])
VALUES: Any = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


# Tags, lengths and values that make parsers of protobuf go far.
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


def some_noise(rng: Random) -> tuple[str, bytes, bool]:
    """Bytes that are no request, or hardly one."""
    return rng.choice(sorted(METHODS)), b"".join(_piece(rng) for _ in range(rng.randrange(12))), False


def something_changed(rng: Random) -> tuple[str, bytes, bool]:
    """A valid request with bytes changed in it; one in ten is left as it is."""
    rpc = rng.choice(sorted(METHODS))
    data = valid_request(rpc, rng).SerializeToString()
    if rng.random() < 0.1:
        return rpc, data, True
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = _changed(rpc, data, rng)
    return rpc, data, False


def _changed(rpc: str, data: bytes, rng: Random) -> bytes:
    at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    to = min(to, at + 20)
    how = rng.choice(("flip", "set", "insert", "delete", "double", "cut", "splice", "swap"))
    if how == "flip" and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if how == "set":
        return data[:at] + rng.choice((b"\x00", b"\x7f", b"\x80", b"\xff")) + data[at + 1 :]
    if how == "insert":
        return data[:at] + _piece(rng) + data[at:]
    if how == "delete":
        return data[:at] + data[to:]
    if how == "double":
        return data[:to] + data[at:to] * rng.choice((1, 1, 50)) + data[to:]
    if how == "cut":
        return data[:at]
    if how == "swap":
        return data[to:] + data[at:to] + data[:at]
    # The rest of another request, of this method or of any.
    other = valid_request(rng.choice((rpc, *METHODS)), rng).SerializeToString()
    return data[:at] + other[rng.randrange(len(other) + 1) :]


_ALWAYS = {"session_id", "run_id", "notes", "turns", "requests", "seconds", "set"}
_IDS = [f"fuzzed-{number}" for number in range(40)]


def valid_request(rpc: str, rng: Random) -> Message:
    """A request that a method takes, if the session's state allows: filled by its descriptor."""
    request: Message = METHODS[rpc]()
    _fill(request, rng)
    return request


def _fill(message: Message, rng: Random) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.name == "page_token" or (field.name not in _ALWAYS and rng.random() < 0.5):
            continue
        if field.message_type is None:
            _fill_plainly(message, field, rng)
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


def _fill_plainly(message: Message, field: Any, rng: Random) -> None:
    texts = ["", "said", "Grüße, 世界 \x00", "x" * 300]
    if field.name in ("session_id", "run_id", "observer"):
        drawn: Any = rng.choice(_IDS)
    elif field.name == "remove":
        drawn = [f"remove-{number}" for number in range(rng.randrange(3))]
    elif field.enum_type is not None:
        drawn = rng.choice(field.enum_type.values).number
    elif field.cpp_type == field.CPPTYPE_STRING:
        drawn = rng.choices(texts, k=2) if field.is_repeated else rng.choice(texts)
    elif field.cpp_type == field.CPPTYPE_BOOL:
        drawn = rng.random() < 0.5
    elif field.name in ("seconds", "page_size", "nanos"):
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


class Fuzz:
    """Many calls in flight with requests drawn from a seed.

    Args:
        draw: Draws a request, and says whether it is valid for sure.
    """

    def __init__(self, seed: int, draw: Callable[[Random], tuple[str, bytes, bool]]) -> None:
        self.ends: dict[str, Counter[grpc.StatusCode]] = {rpc: Counter() for rpc in sorted(METHODS)}
        self.wrong: list[str] = []
        self._rng, self._draw, self._seed = Random(seed), draw, seed

    def send(self, target: str, count: int) -> None:
        """Sends so many."""
        asyncio.run(self._send(target, count))

    async def _send(self, target: str, count: int) -> None:
        left = iter(range(count))
        async with grpc.aio.insecure_channel(target, options=[("grpc.max_receive_message_length", -1)]) as channel:
            methods: dict[str, Any] = {rpc: channel.unary_unary(f"/session_notes.v1.{rpc}") for rpc in METHODS}

            async def work() -> None:
                for _ in left:
                    rpc, data, valid = self._draw(self._rng)
                    end = grpc.StatusCode.OK
                    try:
                        await methods[rpc](data, timeout=30)
                    except grpc.aio.AioRpcError as error:
                        end = error.code()
                    self.ends[rpc][end] += 1
                    if end not in TOLD or (valid and end == grpc.StatusCode.INVALID_ARGUMENT):
                        self.wrong.append(f"{end.name}: {rpc} {data.hex()}")

            await asyncio.gather(*(work() for _ in range(32)))

    def __str__(self) -> str:
        codes = sorted({code for ends in self.ends.values() for code in ends}, key=lambda code: code.value[0])
        rows = [("", *(code.name for code in codes))]
        rows += [(rpc, *(str(ends[code]) for code in codes)) for rpc, ends in self.ends.items()]
        return "\n".join(row[0].ljust(30) + "".join(f"{cell:>20}" for cell in row[1:]) for row in rows)


def rss_mib(sidecar: Sidecar) -> float:
    """How much memory it has now."""
    assert sidecar.process is not None
    status = Path(f"/proc/{sidecar.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("draw", [some_noise, something_changed], ids=["any bytes", "bytes changed"])
def test_any_bytes_to_any_method(
    draw: Callable[[Random], tuple[str, bytes, bool]],
    effort: Callable[[int, int], int],
    seed: int,
    again: str,
    say: Callable[[str], None],
) -> None:
    """Random bytes, and valid requests with bytes changed, to all methods: OK or an error that says what is wrong;
    never INTERNAL, UNKNOWN or a crash; memory stays flat."""
    count = effort(1_500, 100_000)
    fuzz = Fuzz(seed, draw)
    with Sidecar() as sidecar:
        assert sidecar.process is not None
        pid, began = sidecar.process.pid, time.monotonic()
        fuzz.send(sidecar.target, count // 5)
        before = rss_mib(sidecar)
        fuzz.send(sidecar.target, count - count // 5)
        took, after = time.monotonic() - began, rss_mib(sidecar)
        say(f"\n{count} requests in {took:.0f} s; memory {before:.1f} → {after:.1f} MiB\n{fuzz}")
        assert not fuzz.wrong, "\n".join([*fuzz.wrong[:5], f"({len(fuzz.wrong)} in all); again with: {again}"])
        assert sidecar.running
        assert sidecar.process.pid == pid
        assert after < before + 24, f"memory grew; again with: {again}"
        assert "Traceback" not in sidecar.log
        assert " error " not in sidecar.log
        assert sum(ends[grpc.StatusCode.OK] for ends in fuzz.ends.values()) > count / 100


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
