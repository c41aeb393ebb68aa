"""The code in docs/integrations-frameworks.md runs and does what the page promises.

A test file imports the tests, and has the fixtures `example` and `extra`.
"""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from session_notes import AsyncPrimaryClient, PrimaryClient, TurnRecorder

from tests.integrations.frameworks.support import QUESTION, Caller, stored_utterances
from tests.support import eventually

DOCS = (Path(__file__).parents[3] / "docs" / "integrations-frameworks.md").read_text()
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    for section in DOCS.split("\n## ")[1:]
}


async def execute(section: str, names: dict[str, Any], *, block: int = 0) -> None:
    """Run code of a section, which may contain `await`, with these names defined."""
    lines = SECTIONS[section][block].replace('"session-1"', "session_id")
    result = eval(compile(lines, section, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.isawaitable(result):
        await result


Example = tuple[str, int, Any]
"""A section of the page, the number of a block of code in it, and the model that the code uses."""

Extra = tuple[str, str, str]
"""The module of an integration, a package that it needs, and the extra that installs the package."""


async def test_framework_code(
    example: Example,
    async_primary: AsyncPrimaryClient,
    primary: PrimaryClient,
    recorder: TurnRecorder,
    session_id: str,
) -> None:
    """The code of each framework runs unchanged with a scripted model and records the exchange."""
    section, block, model = example
    names = {"model": model, "caller": Caller(session_id), "Caller": Caller, "session_id": session_id}
    await execute(section, names | {"primary": async_primary, "recorder": recorder}, block=block)
    exchange = [("user", QUESTION), ("primary", "Certainly.")]
    eventually(lambda: stored_utterances(primary, session_id) == exchange)


def test_missing_package_names_the_extra(extra: Extra) -> None:
    """Without its package, an integration names the extra to install."""
    module, package, name = extra
    script = f"import sys; sys.modules[{package!r}] = None; import session_notes.integrations.{module}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert f"pip install '.[{name}]' in its checkout" in done.stderr.splitlines()[-1]
