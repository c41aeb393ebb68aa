"""Generator of the asyncio clients, a development tool outside the package.

It derives each file in `MODULES` from a blocking client by text substitution. That suffices because they differ only
in `async`, `await` and a few names. After a change to a blocking client, run `make format`, or:

    python clients/python/async_clients.py

tests/clients/test_counterparts.py fails if a generated file is out of date or its docstrings differ. If a new construct
needs `await`, add a pattern to `_SUBSTITUTIONS`; mypy detects a missing one.
"""

import re
from pathlib import Path

PACKAGE = Path(__file__).parent / "session_notes"
# Blocking module → generated module.
MODULES = {"_primary.py": "_async_primary.py", "_observer.py": "_async_observer.py", "_raw.py": "_async_raw.py"}

_HEAD = '''"""Asyncio client for {role}. Generated from `{source}` by clients/python/async_clients.py: do not edit."""
# ruff: noqa: ASYNC109 - the deadline is sent with the call; asyncio.timeout would not reach the sidecar.
'''

# Regular expressions and their replacements, applied in order to code and docstrings.
_SUBSTITUTIONS = (
    # The context manager.
    (r"    def __enter__\(self\) -> Self:", "    async def __aenter__(self) -> Self:\n        self._transport.open()"),
    (r"    def __exit__\(", "    async def __aexit__("),
    (r"(?<=        )self\.close\(\)", "await self.close()"),
    # Methods. `run` stays a plain method, because its result is entered with `async with`.
    (r"\n    def (?!_|run\b)", "\n    async def "),
    (r"self\._transport\.(send|close)\(", r"await self._transport.\1("),
    (r"_pending\.settle\(", "await _pending.settle_async("),
    (r"yield from page\n", "for item in page:\n                yield item\n"),
    # Names.
    (r"\bIterator\b", "AsyncIterator"),
    (r"\b(PrimaryClient|ObserverClient|RawClient|Transport|RunBlock|ActiveRun)\b", r"Async\1"),
    (r"session_notes\._(transport|runs)\b", r"session_notes._async_\1"),
    # Docstrings.
    (r"(>>>|\.\.\.)( +)(with|for) ", r"\1\2async \3 "),
    (r"for run in observer\.", "async for run in observer."),
    (r"(>>>|\.\.\.)( +)((?:\w+ = )?)(?=(?:primary|observer|raw|run)\.\w+\()", r"\1\2\3await "),
    (
        r"Safe to use from several threads\. Create one per process, and close it or use it in `with`\.",
        "Open it with `async with`. It belongs to that event loop, and raises UsageError in any other.",
    ),
    (r"in flight in other threads", "in flight in other tasks"),
    (r"(a|the duration of a) `with` block", r"\1 `async with` block"),
    (r"without a `async", "without an `async"),
    (r"duration of a `async", "duration of an `async"),
)


def to_asyncio(text: str) -> str:
    """Convert code or a docstring of a blocking client into that of its asyncio counterpart."""
    for pattern, replacement in _SUBSTITUTIONS:
        text = re.sub(pattern, replacement, text)
    return text


def generate(source: str) -> str:
    """Return the content of the asyncio counterpart of a blocking module."""
    blocking = (PACKAGE / source).read_text(encoding="utf-8")
    docstring, _, code = blocking.partition("\n")
    role = re.search(r"client for (.+?)\.", docstring)
    assert role is not None, docstring  # noqa: S101
    module = to_asyncio(code)
    # Sort imports again, as ruff does: the substitutions have changed their names.
    imports = re.compile(r"(?:from session_notes.*\n)+")
    module = imports.sub(lambda block: "".join(sorted(block[0].splitlines(True), key=_module_name)), module)
    names = re.compile(r"(?<=import )\w+(?:, \w+)+$", re.MULTILINE)
    module = names.sub(lambda match: ", ".join(sorted(match[0].split(", "), key=_isort_key)), module)
    return _HEAD.format(role=role[1], source=source.removesuffix(".py")) + module


def _module_name(line: str) -> str:
    return line.split()[1]


def _isort_key(name: str) -> tuple[bool, bool, str]:
    """Sort constants before classes before functions, as ruff does."""
    return not name.isupper(), not name[0].isupper(), name


if __name__ == "__main__":
    for source, target in MODULES.items():
        (PACKAGE / target).write_text(generate(source), encoding="utf-8")
