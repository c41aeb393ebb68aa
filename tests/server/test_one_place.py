"""Facts of the store are written in one place: limits, run states, script arguments, error codes, refusals."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import session_notes_server
import session_notes_tools
from session_notes.v1.notes_pb2 import RunState
from session_notes_server.store import OPERATIONS, State, Store, limits, scripts
from session_notes_server.store.errors import CODES

SERVER = Path(session_notes_server.__file__).parent
TOOLS = Path(session_notes_tools.__file__).parent
LUA = sorted((SERVER / "store" / "lua").glob("*.lua"))
SHARED = {"common", "changes"}
LIMITS = {name: value for name, value in vars(limits).items() if name.isupper()}
UNITS = {"BYTES", "MAX", "PER"}


def code_of(script: Path) -> str:
    """Return a script's text without comments and strings."""
    return re.sub(r"--.*|'[^']*'", "", script.read_text())


def modules(*folders: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the Python modules in folders, parsed."""
    for folder in folders:
        for path in folder.rglob("*.py"):
            yield path, ast.parse(path.read_text())


def constants(module: ast.Module) -> Iterator[tuple[str, object]]:
    """Yield the names and values of a module's numeric constants, such as `8 * 1024`."""
    for statement in module.body:
        if isinstance(statement, ast.Assign) and isinstance(target := statement.targets[0], ast.Name):
            nodes = list(ast.walk(statement.value))
            if all(isinstance(node, ast.Constant | ast.BinOp | ast.operator) for node in nodes):
                yield target.id, eval(compile(ast.Expression(statement.value), "constant", "eval"))


def test_run_states_are_those_of_the_contract() -> None:
    """Each state of the contract but UNSPECIFIED has the same name and number in the store."""
    assert {f"RUN_STATE_{state.name}": state.value for state in State} == {
        name: number for name, number in RunState.items() if number
    }


@pytest.mark.parametrize("script", LUA, ids=lambda script: script.stem)
def test_scripts_define_no_numbers(script: Path) -> None:
    """No script contains a number of two digits or more, because limits and units come from limits.py."""
    assert re.findall(r"\b\d{2,}\b|\b\d+e\d+\b", code_of(script)) == []


@pytest.mark.parametrize("script", LUA, ids=lambda script: script.stem)
def test_scripts_read_no_argument_by_position(script: Path) -> None:
    """Only shared code reads ARGV, for the tag and for lists. All other arguments are generated locals."""
    assert ("ARGV" in code_of(script)) == (script.stem in SHARED)


def test_each_script_has_one_signature() -> None:
    """Scripts and signatures correspond by name, and each argument is used by its script."""
    assert {script.name for script in scripts.SCRIPTS.values()} == {script.stem for script in LUA} - SHARED
    for signature, script in scripts.SCRIPTS.items():
        code = code_of(SERVER / "store" / "lua" / f"{script.name}.lua")
        assert [name for name in signature._fields if not re.search(rf"\b{name}\b", code)] == []


def test_python_repeats_no_limit() -> None:
    """No other constant of the server or the tools has a limit's value and a word of its name."""
    copies = [
        f"{path}: {name}"
        for path, module in modules(SERVER, TOOLS)
        if path != Path(limits.__file__)
        for name, value in constants(module)
        for limit, number in LIMITS.items()
        if value == number and (set(name.split("_")) & set(limit.split("_"))) - UNITS
    ]
    assert copies == []


def test_one_list_names_the_commands_of_the_scripts() -> None:
    """Health and `doctor` check that the user may run every command that a script calls, and the probe's own."""
    called = {name.lower() for script in LUA for name in re.findall(r"redis\.p?call\('(\w+)'", script.read_text())}
    assert {command.split()[0] for command in scripts.COMMANDS} == called | {"rpushx"}


def test_one_table_lists_the_error_codes() -> None:
    """No module of the store but errors.py lists several of Redis's error codes."""
    copies = [
        f"{path}:{node.lineno}"
        for path, module in modules(SERVER / "store")
        if path.name != "errors.py"
        for node in ast.walk(module)
        if isinstance(node, ast.Tuple | ast.List | ast.Set | ast.Dict)
        and sum(isinstance(part, ast.Constant) and part.value in CODES for part in ast.iter_child_nodes(node)) > 1
    ]
    assert copies == []


def test_one_table_lists_the_refusals() -> None:
    """No module of the server but rpc/errors.py names a refusal."""
    names = scripts.refusals()
    copies = [
        f"{path}:{node.lineno}"
        for path, module in modules(SERVER)
        if path != SERVER / "rpc" / "errors.py"
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert copies == []


def test_every_public_method_of_the_store_is_an_operation() -> None:
    """Every public method of Store is in OPERATIONS, so that telemetry has metrics for it."""
    assert {name for name in dir(Store) if not name.startswith("_")} == set(OPERATIONS)
