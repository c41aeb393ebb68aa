"""Access to INFO for the checks of a store: numbers in it, and findings for nodes that refuse it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from session_notes_server.store.inspection import StoreInspection

from session_notes_tools.doctor.findings import Finding, skipped

USE_ADMIN = "to check this, run the doctor once with an admin's user in --redis-url"


def needs_info(check: Callable[[StoreInspection], Finding]) -> Callable[[StoreInspection], Finding]:
    """Skip a check on a node that refuses INFO."""
    name = check.__name__.removeprefix("_")

    def check_or_skip(node: StoreInspection) -> Finding:
        return check(node) if node.info else unknown(name, node, "INFO")

    return check_or_skip


def unknown(check: str, node: StoreInspection, command: str) -> Finding:
    """Return the finding of a check that a refused command prevents."""
    return skipped(check, f"unknown: {node.refused.get(command)}", USE_ADMIN)


def number(info: Mapping[str, str], name: str) -> int:
    """Return a number in INFO; 0 if it is missing."""
    text = info.get(name, "")
    return int(text) if text.isdecimal() else 0
