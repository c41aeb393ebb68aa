"""Arguments that the client rejects before sending: the error names the argument and both types, never the value."""

import inspect
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from session_notes import (
    TLS,
    AsyncObserverClient,
    AsyncPrimaryClient,
    InvalidArgument,
    Issue,
    Notes,
    ObserverClient,
    PrimaryClient,
    Severity,
    TokenFile,
    Turn,
)
from session_notes._async_runs import AsyncRunBlock
from session_notes._errors import for_logs
from session_notes._runs import RunBlock

TEXT = {42: "int", None: "NoneType", b"x": "bytes", UUID(int=1): "UUID"}
COUNT = {"3": "str", 1.5: "float", True: "bool"}
FLAG = {"yes": "str", 1: "int", None: "NoneType"}
SPAN = {60: "int", 0.5: "float", "1m": "str"}
SEVERAL = {"text": "str", 7: "int", None: "NoneType"}

# Method → its valid arguments, and for each argument invalid values with the type that the error names.
METHODS: dict[type, dict[str, tuple[dict[str, Any], dict[str, Mapping[Any, str]]]]] = {
    PrimaryClient: {
        "get_notes": (
            {"session_id": "s"},
            {
                "session_id": TEXT,
                "observer": TEXT,
                "max_age": SPAN,
                "max_snapshot_age": SPAN,
                "current_turn": COUNT,
                "max_turns_behind": COUNT,
                "timeout": SPAN,
            },
        ),
        "batch_get_notes": (
            {"session_ids": ["s"]},
            {
                "session_ids": SEVERAL,
                "observer": TEXT,
                "max_age": SPAN,
                "max_snapshot_age": SPAN,
                "max_turns_behind": COUNT,
                "timeout": SPAN,
            },
        ),
        "get_session": ({"session_id": "s"}, {"session_id": TEXT, "include_turns": FLAG, "timeout": SPAN}),
        "update_session": (
            {"session_id": "s", "set": {"a": 1}},
            {
                "session_id": TEXT,
                "set": {"text": "str", 7: "int", (1,): "tuple"},
                "remove": SEVERAL,
                "expected_version": COUNT,
                "ttl": SPAN,
                "timeout": SPAN,
            },
        ),
        "append_turns": (
            {"session_id": "s", "turns": [Turn("user", "x")]},
            {
                "session_id": TEXT,
                "turns": SEVERAL,
                "expected_turn_count": COUNT,
                "append_id": {42: "int", b"x": "bytes"},
                "timeout": SPAN,
            },
        ),
        "delete_session": ({"session_id": "s"}, {"session_id": TEXT, "timeout": SPAN}),
        "list_sessions": ({}, {"page_size": COUNT, "timeout": SPAN}),
    },
    ObserverClient: {
        "run": (
            {"session_id": "s"},
            {
                "session_id": TEXT,
                "run_id": {42: "int", b"x": "bytes"},
                "observed_turn": COUNT,
                "lease": SPAN,
                "only_if_idle": FLAG,
                "include_transcript": FLAG,
                "after_turn": COUNT,
                "after_current_notes": FLAG,
                "max_turns": COUNT,
                "include_current_notes": FLAG,
            },
        ),
        "begin_run": (
            {"session_id": "s"},
            {
                "session_id": TEXT,
                "run_id": {42: "int", b"x": "bytes"},
                "observed_turn": COUNT,
                "lease": SPAN,
                "only_if_idle": FLAG,
                "include_transcript": FLAG,
                "after_turn": COUNT,
                "after_current_notes": FLAG,
                "max_turns": COUNT,
                "include_current_notes": FLAG,
                "timeout": SPAN,
            },
        ),
        "write_notes": (
            {"session_id": "s", "notes": Notes(summary="x")},
            {
                "session_id": TEXT,
                "notes": {"text": "str", 7: "int", None: "NoneType"},
                "run_id": {42: "int", b"x": "bytes"},
                "observed_turn": COUNT,
                "ttl": SPAN,
                "timeout": SPAN,
            },
        ),
        "fail_run": (
            {"session_id": "s", "run_id": "r"},
            # Every reason is valid: it is converted to text, so that the run ends.
            {"session_id": TEXT, "run_id": TEXT, "reason": {}, "timeout": SPAN},
        ),
        "renew_run": (
            {"session_id": "s", "run_id": "r"},
            {"session_id": TEXT, "run_id": TEXT, "lease": SPAN, "timeout": SPAN},
        ),
        "due_sessions": (
            {},
            {
                "min_turns_behind": COUNT,
                "min_interval": SPAN,
                "min_quiet": SPAN,
                "page_size": COUNT,
                "timeout": SPAN,
            },
        ),
        "list_runs": (
            {"session_id": "s"},
            {"session_id": TEXT, "include_notes": FLAG, "page_size": COUNT, "timeout": SPAN},
        ),
    },
}

TWINS = {PrimaryClient: AsyncPrimaryClient, ObserverClient: AsyncObserverClient}


async def _outcome(method: Callable[..., Any], arguments: dict[str, Any]) -> None:
    """Await or exhaust a method's result."""
    answer = method(**arguments)
    if inspect.isawaitable(answer):
        await answer
    elif isinstance(answer, AsyncRunBlock):
        async with answer:
            pass
    elif isinstance(answer, RunBlock):
        with answer:
            pass
    elif hasattr(answer, "__anext__"):
        await anext(answer)
    else:
        next(answer)


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("kind", METHODS)
async def test_a_wrong_type_is_rejected_for_each_argument_of_each_method(
    kind: type, awaited: bool, unreachable: str
) -> None:
    """Nothing is sent, and the error names the argument, the expected type and the actual type."""
    used = TWINS[kind] if awaited else kind
    client = used(unreachable)
    if awaited:
        await client.__aenter__()
    try:
        for name, (fit, wrong) in METHODS[kind].items():
            expected = set(inspect.signature(getattr(kind, name)).parameters) - {"self", "unavailable_ok"}
            assert set(wrong) == expected, f"every argument of {name} is tried"
            for argument, values in wrong.items():
                for value, type_name in values.items():
                    with pytest.raises(InvalidArgument) as caught:
                        await _outcome(getattr(client, name), fit | {argument: value})
                    message = str(caught.value)
                    assert message.startswith(f"{argument} must be "), (name, argument, value, message)
                    assert message.endswith(f", not {type_name}"), (name, argument, value, message)
                    assert caught.value.reason == "INVALID_FIELD"
                    assert for_logs(caught.value) == f"InvalidArgument: {message}"
    finally:
        await client.__aexit__(None, None, None) if awaited else client.close()


WRONG_PARTS: dict[str, tuple[Callable[[PrimaryClient, ObserverClient], Any], str]] = {
    "a single turn": (
        lambda p, _: p.append_turns("s", Turn("user", "x")),  # type: ignore[arg-type]
        "turns must be a list of Turns, not one: pass [turn]",
    ),
    "turns by name": (
        lambda p, _: p.append_turns("s", {"a": 1}),  # type: ignore[dict-item]
        "turns must be a list of Turns, not dict",
    ),
    "a speaker": (
        lambda p, _: p.append_turns("s", [Turn("a", "b"), Turn(None, "x")]),  # type: ignore[arg-type]
        "turns[1].speaker must be a str, not NoneType",
    ),
    "half a character": (
        lambda p, _: p.append_turns("s", [Turn("user", "Great \ud83d")]),
        "turns[0].text must not contain a lone surrogate (half a character)",
    ),
    "a date": (
        lambda p, _: p.append_turns("s", [Turn("user", "x", date(2026, 1, 1))]),  # type: ignore[arg-type]
        "turns[0].time must be a datetime.datetime, not date",
    ),
    "no time zone": (
        lambda p, _: p.append_turns("s", [Turn("user", "x", datetime(2026, 1, 1))]),
        "turns[0].time must have a time zone",
    ),
    "an id in a list": (
        lambda p, _: p.batch_get_notes(["s", 42]),  # type: ignore[list-item]
        "session_ids[1] must be a str, not int",
    ),
    "a name in a list": (
        lambda p, _: p.update_session("s", remove=["a", b"b"]),  # type: ignore[list-item]
        "remove[1] must be a str, not bytes",
    ),
    "a number above 64 bits": (
        lambda p, _: p.get_notes("s", current_turn=2**70),
        "current_turn must be from 0 to 2^53 - 1",
    ),
    "a nested value": (
        lambda p, _: p.update_session("s", {"a": [1, {"b": object()}]}),
        "set['a'][1]['b'] must be JSON: None, bool, int, float, str, a mapping or a sequence, not object",
    ),
    "a nested key": (
        lambda p, _: p.update_session("s", {"a": {1: 2}}),
        "set['a'] must have keys that are str, not int",
    ),
    "nested NaN": (
        lambda _, o: o.write_notes("s", Notes(extra={"a": {"b": math.nan}})),
        "notes.extra['a']['b'] must not contain NaN or infinity",
    ),
    "a number above any double": (
        lambda _, o: o.write_notes("s", Notes(extra={"a": 10**400})),
        "notes.extra['a'] must not contain numbers beyond 2^53 - 1; send them as strings",
    ),
    "a dict for notes": (
        lambda _, o: o.write_notes("s", {"summary": "x"}),  # type: ignore[arg-type]
        "notes must be session_notes.Notes, not dict",
    ),
    "a summary": (
        lambda _, o: o.write_notes("s", Notes(summary=None)),  # type: ignore[arg-type]
        "notes.summary must be a str, not NoneType",
    ),
    "a list for coverage": (
        lambda _, o: o.write_notes("s", Notes(coverage=["goals"])),  # type: ignore[arg-type]
        "notes.coverage must be a mapping, not list",
    ),
    "a share that is text": (
        lambda _, o: o.write_notes("s", Notes(coverage={"goals": "all"})),  # type: ignore[dict-item]
        "notes.coverage['goals'] must be a number, not str",
    ),
    "a share above 1": (
        lambda _, o: o.write_notes("s", Notes(coverage={"goals": 1, "budget": 1.2})),
        "notes.coverage['budget'] must be from 0 to 1",
    ),
    "a share that is NaN": (
        lambda _, o: o.write_notes("s", Notes(coverage={"goals": math.nan})),
        "notes.coverage['goals'] must be from 0 to 1",
    ),
    "a single issue": (
        lambda _, o: o.write_notes("s", Notes(issues=Issue("x"))),  # type: ignore[arg-type]
        "notes.issues must be a list of Issues, not one: pass [issue]",
    ),
    "a dict for issues": (
        lambda _, o: o.write_notes("s", Notes(issues={"text": "x"})),  # type: ignore[arg-type]
        "notes.issues must be a list of Issues, not dict",
    ),
    "None for issues": (
        lambda _, o: o.write_notes("s", Notes(issues=None)),  # type: ignore[arg-type]
        "notes.issues must be a list of Issues, not NoneType",
    ),
    "an issue that is text": (
        lambda _, o: o.write_notes("s", Notes(issues=["late"])),  # type: ignore[list-item]
        "notes.issues[0] must be a session_notes.Issue, not str",
    ),
    "a severity": (
        lambda _, o: o.write_notes("s", Notes(issues=[Issue("x"), Issue("y", "bad")])),  # type: ignore[arg-type]
        "notes.issues[1].severity must be one of info, warning, critical",
    ),
    "an issue's turn": (
        lambda _, o: o.write_notes("s", Notes(issues=[Issue("x", Severity.INFO, 2.0)])),  # type: ignore[arg-type]
        "notes.issues[0].turn must be an int, not float",
    ),
    "a number that is not exact": (
        lambda p, _: p.update_session("s", {"order": {"id": 2**60}}),
        "set['order']['id'] must not contain numbers beyond 2^53 - 1; send them as strings",
    ),
    "a single suggestion": (
        lambda _, o: o.write_notes("s", Notes(follow_up_suggestions="Who?")),
        "notes.follow_up_suggestions must be a list of strings, not str",
    ),
    "a suggestion": (
        lambda _, o: o.write_notes("s", Notes(follow_up_suggestions=["Who?", 5])),  # type: ignore[list-item]
        "notes.follow_up_suggestions[1] must be a str, not int",
    ),
}


@pytest.mark.parametrize("case", WRONG_PARTS)
def test_the_error_names_the_invalid_part_of_an_argument(case: str, unreachable: str) -> None:
    """The error names the invalid part, through lists and mappings."""
    call, message = WRONG_PARTS[case]
    with (
        PrimaryClient(unreachable) as primary,
        ObserverClient(unreachable) as observer,
        pytest.raises(InvalidArgument) as caught,
    ):
        call(primary, observer)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", [PrimaryClient, ObserverClient, AsyncPrimaryClient, AsyncObserverClient])
def test_a_wrong_type_is_rejected_for_each_option_of_a_client(kind: type, unreachable: str) -> None:
    """A client that could make no call is rejected on creation, not later in the log of a recorder or pool."""
    names = ["timeout", "state_timeout" if "Primary" in kind.__name__ else "observer"]
    for name in names:
        with pytest.raises(InvalidArgument, match=f"^{name} must be a .*, not int$"):
            kind(unreachable, **{name: 2})


def test_an_async_token_function_is_rejected(unreachable: str) -> None:
    """A token function that is async, or returns anything but text, is rejected by its type and causes no warning."""

    async def token() -> str:
        return "canary"

    with pytest.raises(InvalidArgument, match="token must not be an async function"):
        PrimaryClient(unreachable, token=token)  # type: ignore[arg-type]
    for wrong, name in ((lambda: token(), "coroutine"), (lambda: None, "NoneType")):
        with PrimaryClient(unreachable, token=wrong) as primary, pytest.raises(InvalidArgument) as caught:  # type: ignore[arg-type]
            primary.get_session("s")
        assert str(caught.value) == f"the token function must return a str, not {name}"


@pytest.mark.parametrize("path", ["/none\udcff", "/nothing\ud83d", "/none\0", "/none\u202e"])
def test_a_path_that_cannot_be_printed_is_rejected(path: str) -> None:
    """A file whose name cannot be printed is rejected like any missing file, in a printable message."""
    makers: list[Callable[[], object]] = [
        lambda: TokenFile(path),
        lambda: PrimaryClient("localhost:1", tls=TLS(ca=path)),
    ]
    for make in makers:
        with pytest.raises(InvalidArgument, match="cannot be read") as caught:
            make()
        assert str(caught.value).isprintable()


def test_logs_omit_the_keys_of_the_caller(unreachable: str) -> None:
    """A message for logs omits topics and keys, which the caller chose. The exception shows them."""
    with ObserverClient(unreachable) as observer:
        for notes in (Notes(coverage={"Jane": 2}), Notes(extra={"Jane": math.inf})):
            with pytest.raises(InvalidArgument, match="Jane") as caught:
                observer.write_notes("s", notes)
            assert "Jane" not in for_logs(caught.value)
            assert for_logs(caught.value).startswith("InvalidArgument: notes.")


def test_number_types_of_other_packages_are_accepted(
    primary: PrimaryClient, observer: ObserverClient, session_id: str
) -> None:
    """Any type with `__index__` is accepted as an integer, any type with `__float__` as a number."""

    class Whole:
        def __index__(self) -> int:
            return 3

    observer.write_notes(session_id, Notes(coverage={"goals": Decimal("0.5")}))  # type: ignore[dict-item]
    reading = primary.get_notes(session_id, current_turn=Whole(), timeout=timedelta(seconds=5))  # type: ignore[arg-type]
    assert reading.notes == Notes(coverage={"goals": 0.5})


def test_integers_are_returned_as_integers(primary: PrimaryClient, observer: ObserverClient, session_id: str) -> None:
    """Integers are returned as integers (4711, not 4711.0), and fractions as they are."""
    extra = {"customer": 4711, "numbers": [0, -1, 2**53 - 1, 0.5], "deep": {"sum": 3.0}}
    observer.write_notes(session_id, Notes(extra=extra))
    primary.update_session(session_id, extra)
    primary.append_turns(session_id, [Turn("user", "x", extra=extra)])
    extra_for_model = primary.get_notes(session_id, timeout=timedelta(seconds=5)).as_tool_result()["notes"]["extra"]
    session = primary.get_session(session_id, include_turns=True)
    for content in (extra_for_model, session.fields, session.turns[0].extra):
        assert str(content["customer"]) == "4711"
        assert str(content["numbers"]) == "[0, -1, 9007199254740991, 0.5]"
        assert content == extra
