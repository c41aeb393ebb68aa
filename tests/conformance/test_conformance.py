"""Conformance of the Python client with the tables that all clients share (format: README.md in this folder)."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
import pytest
import session_notes
from google.protobuf import json_format
from session_notes import (
    DEFAULT_NOTES_TIMEOUT,
    Issue,
    Notes,
    NotesFeed,
    ObserverClient,
    PrimaryClient,
    Readiness,
    Reading,
    SessionNotesError,
    Turn,
)
from session_notes._errors import translate
from session_notes._prompt import without_prompts
from session_notes.integrations.tools import NotesTool
from session_notes.status.v1 import status_pb2
from session_notes.v1.session_notes_pb2 import GetNotesResponse

from tests.support import Sidecar, eventually, free_port, new_session_id

HERE = Path(__file__).parent
TABLES = {path.stem: json.loads(path.read_text()) for path in sorted(HERE.glob("*.json"))}
CASES = {
    f"{table}: {case['name']}": case
    for table, content in TABLES.items()
    if table != "broken"
    for case in content.get("cases", ())
}
BROKEN = {case["name"]: case for case in TABLES["broken"]["cases"]}

_SPANS = {"max_age", "max_snapshot_age", "ttl", "lease", "min_interval", "min_quiet", "timeout"}
_OBSERVERS = {"begin_run", "write_notes", "fail_run", "renew_run", "due_sessions", "list_runs", "run"}

PATIENCE = timedelta(seconds=5)
"""Deadline of GetNotes for a running sidecar: tests share a few cores."""


class Oops(Exception):
    """Raised inside a run by cases that need a failing run."""


class Mismatch(AssertionError):
    """A result differs from the case."""


class Runner:
    """Runner of one case against one target. With `patient`, GetNotes has a longer deadline than by default."""

    def __init__(self, target: str, stack: ExitStack, *, patient: bool, closed: bool) -> None:
        self._names: dict[str, Any] = {}
        self._target = target
        self._stack = stack
        self._closed = closed
        self._observers: dict[str, ObserverClient] = {}
        self._primary = stack.enter_context(
            PrimaryClient(target, timeout=PATIENCE if patient else DEFAULT_NOTES_TIMEOUT)
        )
        if closed:
            self._primary.close()
        self._run: Any = None
        self._feed: Any = None

    def steps(self, steps: list[dict[str, Any]]) -> None:
        """Run the steps in order."""
        for number, step in enumerate(steps, 1):
            try:
                self._step(step)
            except Mismatch as mismatch:
                raise Mismatch(f"step {number}, {step['call']}: {mismatch}") from None

    def _step(self, step: dict[str, Any]) -> None:
        if step.get("eventually"):
            eventually(lambda: self._holds(step))
        elif step["call"] == "run":
            self._perform_run(step)
        else:
            self._check(step, lambda: self._call(step["call"], self._given(step.get("with", {}))))

    def _holds(self, step: dict[str, Any]) -> bool:
        try:
            self._step(step | {"eventually": False})
        except Mismatch:
            return False
        return True

    def _check(self, step: dict[str, Any], call: Callable[[], Any]) -> None:
        try:
            result = call()
        except SessionNotesError as error:
            if "fails" not in step:
                raise Mismatch(f"it failed: {error!r}") from error
            self._compare_error(step["fails"], error)
            return
        if "fails" in step:
            raise Mismatch(f"it did not fail, but returned {result!r}")
        self._results(step, result)

    def _results(self, step: dict[str, Any], result: Any) -> None:
        if "only" in step:
            result = [item for item in result if all(self._is(e, at(item, p)) for p, e in step["only"].items())]
        if "gives" in step:
            self._compare(step["gives"], result)
        if "tool_result" in step:
            self._equal(step["tool_result"], result.as_tool_result(), "tool_result")
        for name, path in step.get("save", {}).items():
            self._names[name] = at(result, path)

    def _perform_run(self, step: dict[str, Any]) -> None:
        given = self._given(step.get("with", {}))

        def perform() -> Any:
            observer = self._observer(given)
            with observer.run(given.pop("session_id"), **given) as self._run:
                self._results(step, self._run)
                self.steps(step["during"])
                if "raises" in step:
                    raise Oops("never recorded")

        if "raises" not in step:
            self._check({name: step[name] for name in ("fails",) if name in step}, perform)
            return
        with pytest.raises(Oops):
            perform()

    def _observer(self, given: dict[str, Any]) -> ObserverClient:
        name = given.pop("observer", "")
        if name not in self._observers:
            self._observers[name] = self._stack.enter_context(ObserverClient(self._target, observer=name))
            if self._closed:
                self._observers[name].close()
        return self._observers[name]

    def _call(self, name: str, given: dict[str, Any]) -> Any:
        if name.startswith("run."):
            return getattr(self._run, name.removeprefix("run."))(**given)
        if name == "feed":
            self._feed = NotesFeed(self._primary, **given)
            return None
        if name == "feed.next":
            return self._feed.next()
        client: Any = self._observer(given) if name in _OBSERVERS else self._primary
        result = getattr(client, name)(**given)
        return list(result) if isinstance(result, Iterator) else result

    def _given(self, arguments: dict[str, Any]) -> dict[str, Any]:
        given = {}
        for name, content in arguments.items():
            value = self._resolved(content)
            if name in _SPANS:
                value = timedelta(seconds=value)
            elif name == "notes":
                value = notes_of(value)
            elif name == "turns":
                value = [turn_of(turn) for turn in value]
            given[name] = value
        return given

    def _resolved(self, content: Any) -> Any:
        match content:
            case str() if re.fullmatch(r"\$\w+", content):
                return self._names.setdefault(content[1:], new_session_id())
            case {"$repeat": [item, times]}:
                return self._resolved(item) * times
            case {"$nested": levels}:
                return nested(levels)
            case {"$lines": lines}:
                return "\n".join(lines)
            case dict():
                return {name: self._resolved(item) for name, item in content.items()}
            case list():
                return [self._resolved(item) for item in content]
        return content

    def _compare_error(self, expected: Any, error: SessionNotesError) -> None:
        expected = {"error": expected} if isinstance(expected, str) else expected
        compare_error(expected, error, self._equal)

    def _compare(self, expected: Any, result: Any) -> None:
        if isinstance(expected, dict) and not is_matcher(expected):
            for path, part in expected.items():
                self._equal(part, at(result, path), path)
        else:
            self._equal(expected, neutral(result), "the result")

    def _is(self, expected: Any, actual: Any) -> bool:
        try:
            self._equal(expected, actual, "")
        except Mismatch:
            return False
        return True

    def _equal(self, expected: Any, actual: Any, path: str) -> None:
        equal(self._resolved(expected), actual, path)


def nested(levels: int) -> dict[str, Any]:
    """Return objects nested `levels` deep."""
    levels_so_far: dict[str, Any] = {}
    for _ in range(levels - 1):
        levels_so_far = {"a": levels_so_far}
    return levels_so_far


def is_matcher(expected: Any) -> bool:
    """Return whether an expectation is a matcher instead of a value."""
    matchers = ({"$between"}, {"$present"}, {"$repeat"}, {"$nested"}, {"$lines"})
    return isinstance(expected, dict) and set(expected) in matchers


def equal(expected: Any, actual: Any, path: str) -> None:
    """Raise Mismatch unless both are equal as JSON: a boolean is not a number, and keys must match exactly."""
    problem = f"{path} is {actual!r}, not {expected!r}"
    match expected:
        case {"$present": True}:
            if actual in (None, ""):
                raise Mismatch(problem)
        case {"$between": [low, high]}:
            if isinstance(actual, bool) or not isinstance(actual, int | float) or not low <= actual <= high:
                raise Mismatch(problem)
        case dict():
            if not isinstance(actual, dict) or set(expected) != set(actual):
                raise Mismatch(problem)
            for name, part in expected.items():
                equal(part, actual[name], f"{path}.{name}")
        case list():
            if not isinstance(actual, list) or len(expected) != len(actual):
                raise Mismatch(problem)
            for number, (left, right) in enumerate(zip(expected, actual, strict=True)):
                equal(left, right, f"{path}.{number}")
        case _:
            if isinstance(expected, bool) != isinstance(actual, bool) or expected != actual:
                raise Mismatch(problem)


def compare_error(expected: dict[str, Any], error: Exception, check: Callable[[Any, Any, str], None] = equal) -> None:
    """Raise Mismatch unless an error has the class and the attributes in the case."""
    for path, part in expected.items():
        if path == "error":
            check(part, type(error).__name__, "the error's class")
        elif path == "is":
            for parent in part:
                if not isinstance(error, getattr(session_notes, parent)):
                    raise Mismatch(f"{type(error).__name__} is not a {parent}")
        elif path == "message":
            check(part, str(error), path)
        else:
            check(part, at(error, path), path)


def at(result: Any, path: str) -> Any:
    """Return the part of a result at a path, in neutral form."""
    for step in path.split("."):
        if step == "length":
            result = len(result)
        elif step.isdecimal():
            result = result[int(step)]
        else:
            result = result[step] if isinstance(result, dict) else getattr(result, step)
    return neutral(result)


def neutral(result: Any) -> Any:
    """Return a result as JSON, the same for every language."""
    match result:
        case StrEnum():
            return result.value
        case datetime():
            return result.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case timedelta():
            return result.total_seconds()
        case Issue() | Turn():
            parts = {name: getattr(result, name) for name in _names(result)}
            return {name: neutral(part) for name, part in parts.items() if part not in (None, {}, "unspecified")}
        case tuple() if hasattr(result, "_fields"):
            return {name: neutral(getattr(result, name)) for name in result._fields}
        case list() | tuple():
            return [neutral(item) for item in result]
        case dict():
            return {name: neutral(item) for name, item in result.items()}
    if is_dataclass(result):
        return {name: neutral(getattr(result, name)) for name in _names(result)}
    return result


def _names(record: Any) -> list[str]:
    return [field.name for field in fields(record)]


def notes_of(content: Any) -> Notes:
    """Return notes from a table. Invalid content is passed on, since a case may expect the client to reject it."""
    issues = [Issue(**issue) for issue in content.get("issues", ())]
    return Notes(**(content | {"issues": issues}))


def turn_of(content: Any) -> Turn:
    """Return a turn from a table."""
    time = content.get("time")
    return Turn(**(content | {"time": datetime.fromisoformat(time)} if time else content))


@pytest.fixture
def targets(sidecar: Sidecar) -> Iterator[dict[str, str]]:
    """Targets of cases: the shared sidecar, a closed port, and a server that never responds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield {
            "sidecar": sidecar.target,
            "closed": sidecar.target,
            "unreachable": f"127.0.0.1:{free_port()}",
            "silent": f"127.0.0.1:{silent.getsockname()[1]}",
        }


def run_case(case: dict[str, Any], targets: dict[str, str]) -> None:
    """Run all steps of a case."""
    target = case.get("target", "sidecar")
    with ExitStack() as stack:
        runner = Runner(targets[target], stack, patient=target == "sidecar", closed=target == "closed")
        runner.steps(case["steps"])


@pytest.mark.parametrize("name", CASES)
def test_the_python_client_conforms(name: str, targets: dict[str, str]) -> None:
    """Each case holds against a real sidecar."""
    run_case(CASES[name], targets)


@pytest.mark.parametrize("name", BROKEN)
def test_a_wrong_expectation_is_rejected(name: str, targets: dict[str, str]) -> None:
    """The runner rejects wrong expectations; otherwise it would prove nothing."""
    with pytest.raises(Mismatch):
        run_case(BROKEN[name], targets)


READINGS = {reading["name"]: reading for reading in TABLES["pure_readings"]["readings"]}
READY: dict[str, Any] = READINGS["a newer run in a state this client is too old to know"]["response"]


@pytest.mark.parametrize("name", READINGS)
def test_a_response_becomes_the_reading_in_the_table(name: str) -> None:
    """A response becomes the reading and the tool result in the table."""
    case = READINGS[name]
    reading = Reading.from_message(json_format.ParseDict(case["response"], GetNotesResponse()), session_id="s")
    for path, part in case["gives"].items():
        equal(part, at(reading, path), path)
    equal(case["tool_result"], reading.as_tool_result(), "tool_result")


def test_ages_are_rounded_as_in_the_table() -> None:
    """Ages are rounded to the digit, so that a model sees the same age from every language."""
    for age, seconds in TABLES["pure_readings"]["ages"]["cases"]:
        response = json_format.ParseDict(READY | {"age": age}, GetNotesResponse())
        equal(seconds, Reading.from_message(response, session_id="s").as_tool_result()["age_seconds"], age)


PROMPTS = {prompt["name"]: prompt for prompt in TABLES["pure_prompts"]["prompts"]}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_response_becomes_the_prompt_in_the_table(name: str) -> None:
    """A reading gives a model the text in the table, exactly."""
    case = PROMPTS[name]
    defaults = {"ready": True, "readiness": "READINESS_READY", "notes": TABLES["pure_prompts"]["notes"]}
    response = json_format.ParseDict(defaults | case["response"], GetNotesResponse())
    reading = Reading.from_message(response, session_id="s", observer=case.get("observer", ""))
    options = {option: case[option] for option in ("min_severity", "max_chars") if option in case}
    equal("\n".join(case["lines"]), reading.as_prompt(**options), "the prompt")


@pytest.mark.parametrize("case", TABLES["pure_prompts"]["spoken"], ids=lambda case: case["text"][:30])
def test_prompts_are_removed_as_in_the_table(case: dict[str, str]) -> None:
    """A recorder removes prompts from the text of a turn, and keeps the rest."""
    equal(case["kept"], without_prompts(case["text"]), "the text")


@pytest.mark.parametrize("case", TABLES["pure_prompts"]["tools"], ids=lambda case: case["name"])
def test_a_tool_describes_itself_as_in_the_table(case: dict[str, Any]) -> None:
    """A model reads the same description of the tool from every language."""
    with PrimaryClient("127.0.0.1:1") as client:
        tool = NotesTool(client, "s", observers=case.get("observers"))
    equal("\n".join(case["description"]), tool.description, "the description")


class Status(grpc.RpcError):
    """Stand-in for an error raised by gRPC."""

    def __init__(self, code: str, message: str, details: bytes | None) -> None:
        self._code, self._message, self._details = grpc.StatusCode[code], message, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._message

    def trailing_metadata(self) -> Any:
        return () if self._details is None else (("grpc-status-details-bin", self._details),)


STATUSES = {status["name"]: status for status in TABLES["pure_errors"]["statuses"]}


@pytest.mark.parametrize("name", STATUSES)
def test_a_status_becomes_the_error_in_the_table(name: str) -> None:
    """A status with details becomes the error in the table."""
    case = STATUSES[name]
    details = bytes.fromhex(case["raw_details"]) if "raw_details" in case else details_of(case.get("details", []))
    compare_error(case["error"], translate(Status(case["code"], case["message"], details)))


def details_of(details: list[dict[str, Any]]) -> bytes:
    """Return `grpc-status-details-bin` as a sidecar sends it."""
    status = status_pb2.Status()
    for detail in details:
        ((kind, content),) = detail.items()
        message = json_format.ParseDict(content, getattr(status_pb2, kind)())
        status.details.add(type_url=f"type.googleapis.com/google.rpc.{kind}", value=message.SerializeToString())
    return status.SerializeToString()


def test_the_tables_are_complete() -> None:
    """The tables cover every call of both roles, every readiness and every error."""
    steps = list(every_step([step for case in CASES.values() for step in case["steps"]]))
    calls = {step["call"] for step in steps}
    public = {name for client in (PrimaryClient, ObserverClient) for name in dir(client) if not name.startswith("_")}
    assert public - {"close"} == {call for call in calls if "." not in call} - {"feed"}
    assert {"run.write", "run.fail", "run.renew"} <= calls
    gives = [step["gives"] for step in steps if isinstance(step.get("gives"), dict)]
    seen = {expected["readiness"] for expected in gives if "readiness" in expected}
    assert seen | {"unspecified"} == set(Readiness)
    failures = [step["fails"] for step in steps if "fails" in step] + [case["error"] for case in STATUSES.values()]
    kinds = {failure if isinstance(failure, str) else failure.get("error") for failure in failures} - {None}
    errors = {
        name
        for name in session_notes.__all__
        if isinstance(exported := getattr(session_notes, name), type) and issubclass(exported, SessionNotesError)
    }
    assert kinds == errors - {"SessionNotesError"}


def every_step(steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield all steps, nested ones included."""
    for step in steps:
        yield step
        yield from every_step(step.get("during", []))
