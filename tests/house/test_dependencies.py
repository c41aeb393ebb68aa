"""Dependencies point one way: between the sidecar's packages, and from the tools to the sidecar and the client."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "session_notes_server": ROOT / "server",
    "session_notes_tools": ROOT / "tools",
    "session_notes": ROOT / "clients" / "python",
}

SERVER = {
    "settings": set(),
    "contract": set(),
    "addresses": {"settings"},
    "child_process": {"settings"},
    "identity": {"contract", "settings"},
    "embedded": {"child_process", "settings"},
    "store.redis": {
        *("identity", "settings"),
        # The store's vocabulary, and nothing built on these connections.
        *(
            "store.errors",
            "store.instrumentation",
            "store.keys",
            "store.log_throttle",
            "store.records",
            "store.scripts",
        ),
    },
    "store": {"store.redis", "identity", "settings"},
    "telemetry": {"store", "contract", "addresses", "settings"},
    "rpc": {"telemetry", "store", "identity", "contract", "addresses", "embedded", "settings"},
}
"""The sidecar's packages and modules, and what each may import besides itself. `sidecar` may import all of them."""

TERMINAL_PACKAGES = {"session_notes_tools", "click", "rich", "textual"}

TOOLS_MAY_IMPORT = ("settings", "sidecar", "store.inspection", "store.limits", "child_process")

EXCEPTIONS = {
    ("session_notes_tools.bench.stores", "session_notes_server.embedded.valkey"),
    ("session_notes_tools.bench.echo", "session_notes_server.rpc.engines"),
}
"""Importing and imported module.

The bench measures the store alone, so it starts the embedded store's server. It also measures the native engine alone,
as the base of the sidecar's cost, so it serves a handler on it.
"""


def files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield the modules of a package, by name."""
    for path in sorted((PACKAGES[package] / package).rglob("*.py")):
        parts = path.relative_to(PACKAGES[package]).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = {name: path for package in PACKAGES for name, path in files(package)}


def imports(module: str, *, at_import: bool = False) -> set[str]:
    """Return the modules that a module imports.

    Args:
        module: Its name.
        at_import: Whether to leave out imports in functions, and those for the type checker alone.
    """
    nodes: list[ast.AST] = [ast.parse(MODULES[module].read_text())]
    targets = set[str]()
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            origin = node.module or ""
            # A name may be a module of its package.
            targets |= {name if (name := f"{origin}.{alias.name}") in MODULES else origin for alias in node.names}
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if at_import and (lazy or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))):
            continue
        nodes += ast.iter_child_nodes(node)
    return targets


def within(module: str, names: set[str] | tuple[str, ...]) -> str | None:
    """Return the longest of some dotted names that is a module or one of the packages around it."""
    return max((name for name in names if f"{module}.".startswith(f"{name}.")), key=len, default=None)


def server_imports(module: str) -> set[str]:
    """Return what a module imports from the sidecar, without the package's name."""
    prefix = "session_notes_server."
    return {target.removeprefix(prefix) for target in imports(module) if target.startswith(prefix)}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("session_notes_server.")])
def test_the_sidecars_packages_depend_one_way(module: str) -> None:
    """rpc imports telemetry, telemetry the store, the store its connections to Redis, and none of them the reverse."""
    own = within(module.removeprefix("session_notes_server."), {*SERVER, "sidecar"})
    assert own is not None, f"{module} is in no package that SERVER lists"
    if own == "sidecar":
        return
    allowed = SERVER[own]
    for target in server_imports(module):
        package = within(target, {*SERVER, "sidecar", *allowed})
        assert package == own or package in allowed, f"{module} imports {target}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("session_notes_server")])
def test_the_sidecar_needs_no_terminal(module: str) -> None:
    """The sidecar imports neither its tools nor a package for command lines and terminals."""
    assert {target.partition(".")[0] for target in imports(module)}.isdisjoint(TERMINAL_PACKAGES)


def test_the_tools_use_what_is_public() -> None:
    """Tools import the client's public names, and of the sidecar only what starts, configures or inspects it."""
    violations = {
        (module, target)
        for module in MODULES
        if module.startswith("session_notes_tools")
        for target in imports(module)
        if (target.startswith("session_notes_server.") and within(target[21:], TOOLS_MAY_IMPORT) is None)
        or target.startswith("session_notes._")
    }
    assert violations <= EXCEPTIONS


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_is_circular(package: str) -> None:
    """No module imports itself through others."""
    graph = {name: imports(name, at_import=True) & MODULES.keys() for name, _ in files(package)}
    # Without circles, modules can be removed one by one after all that they import.
    while ready := [name for name, targets in graph.items() if targets.isdisjoint(graph)]:
        for name in ready:
            del graph[name]
    assert not graph, f"in a circle, or dependent on one: {sorted(graph)}"
