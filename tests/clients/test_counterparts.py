"""Blocking classes and their asyncio counterparts: generated, or compared."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import session_notes
from session_notes import _async_transport, _delivery, _transport

PACKAGE = Path(session_notes.__file__).parent

PAIRS: list[tuple[type, type]] = [
    (session_notes.PrimaryClient, session_notes.AsyncPrimaryClient),
    (session_notes.ObserverClient, session_notes.AsyncObserverClient),
    (session_notes.RawClient, session_notes.AsyncRawClient),
    (session_notes.BackgroundObserver, session_notes.AsyncBackgroundObserver),
    (session_notes.TurnRecorder, session_notes.AsyncTurnRecorder),
    (session_notes.ActiveRun, session_notes.AsyncActiveRun),
    (_transport.Transport, _async_transport.AsyncTransport),
]

# Methods whose documented behaviour differs, with the sentence that describes the difference.
DIFFERENT: dict[tuple[str, str], str] = {
    ("BackgroundObserver", "submit"): "May be called from any thread.",
    ("BackgroundObserver", "close"): "runs in flight are cancelled",
    ("TurnRecorder", "close"): "If the recorder belongs to another event loop",
}


def load_generator() -> ModuleType:
    """Load the program that generates the asyncio clients."""
    spec = importlib.util.spec_from_file_location("async_clients", PACKAGE.parent / "async_clients.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize(("source", "target"), GENERATOR.MODULES.items())
def test_generated_clients_are_up_to_date(source: str, target: str) -> None:
    """The committed asyncio client equals the output of the generator."""
    expected = GENERATOR.generate(source)
    assert (PACKAGE / target).read_text(encoding="utf-8") == expected, "run python clients/python/async_clients.py"


def methods(kind: type) -> dict[str, Any]:
    """Return the public methods and properties of a class, and its constructor."""
    return {
        name: member
        for name, member in inspect.getmembers(kind)
        if name == "__init__" or (not name.startswith("_") and (callable(member) or isinstance(member, property)))
    }


def parameters(function: Any) -> list[tuple[str, object, object]]:
    """Return the name, kind and default of each parameter."""
    signature = inspect.signature(function)
    return [(parameter.name, parameter.kind, parameter.default) for parameter in signature.parameters.values()]


@pytest.mark.parametrize(("blocking", "asynchronous"), PAIRS)
def test_counterparts_have_the_same_methods_and_parameters(blocking: type, asynchronous: type) -> None:
    """Names, kinds and defaults of all parameters are equal, and so is the set of methods."""
    sync, async_ = methods(blocking), methods(asynchronous)
    # A blocking client connects at its first call. An asyncio client is opened in its event loop.
    only = {"open"} if asynchronous is _async_transport.AsyncTransport else set()
    assert set(async_) - set(sync) == only
    assert set(sync) - set(async_) == ({"closed"} if blocking is _transport.Transport else set())
    for name in set(sync) & set(async_):
        if callable(sync[name]):
            assert parameters(sync[name]) == parameters(async_[name]), name


@pytest.mark.parametrize(("blocking", "asynchronous"), PAIRS)
def test_counterparts_have_the_same_docstrings(blocking: type, asynchronous: type) -> None:
    """The docstring of each method is that of its counterpart, with `async` and `await` in the examples."""
    sync, async_ = methods(blocking), methods(asynchronous)
    for name in set(sync) & set(async_) - {"__init__"}:
        document = inspect.getdoc(async_[name]) or ""
        difference = DIFFERENT.get((blocking.__name__, name))
        if difference is not None:
            assert difference in re.sub(r"\s+", " ", document), name
            assert document.partition("\n")[0].startswith((inspect.getdoc(sync[name]) or "")[:30]), name
        else:
            assert document == GENERATOR.to_asyncio(inspect.getdoc(sync[name]) or ""), name


def test_both_drivers_of_a_visit_take_the_same_steps() -> None:
    """The function that drives a recorder's visit for asyncio is the blocking one with `await`."""
    blocking = inspect.getsource(_delivery.drive).replace("a blocking client", "an asyncio client")
    expected = blocking.replace("def drive", "async def drive_async").replace(
        "result = call()", "result = await call()"
    )
    assert inspect.getsource(_delivery.drive_async) == expected
