"""The base image of tests: a Debian with Python and pip, as a stand-in for `python:…-slim-…`.

`python -m tests.integrations.base_image` installs it with debootstrap from this machine's Debian mirror, into a cache.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"

_TAGS = re.findall(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
TAG: str = _TAGS[0]
"""The tag of the Dockerfile's base image."""

_SUITE = TAG.rpartition("-")[2]
ARCHIVE = ROOT / ".cache/images" / f"{_SUITE}.tar.gz"
"""The root file system."""

_PACKAGES = ("python3", "python3-pip", "python3-venv", "python-is-python3")
_EXCLUDED = (
    "dev/*",
    "usr/share/doc/*",
    "usr/share/locale/*",
    "usr/share/man/*",
    "usr/share/zoneinfo/*",
    "var/cache/apt/*",
    "var/lib/apt/lists/*",
)
_TIME_LIMIT = 300
"""The time limit of an installation, in seconds."""


def missing() -> str:
    """Return why no image can be built on this machine; an empty string if one can."""
    if os.geteuid() or not shutil.which("buildah"):
        return "images are built only by root with buildah"
    return "" if ARCHIVE.exists() else "no base image: `make test-integrations` makes it with debootstrap"


def prepare() -> None:
    """Make the archive unless it exists, and print what happens. Without the programs or a mirror, make nothing."""
    if ARCHIVE.exists():
        return
    if os.geteuid() or not shutil.which("buildah") or not shutil.which("debootstrap"):
        print("skipped: images are built only by root with buildah and debootstrap")
        return
    mirror = _mirror()
    if not mirror:
        print("skipped: images need a Debian mirror, and apt has none")
        return
    print(f"installing Debian {_SUITE} and Python from {mirror} into {ARCHIVE} (about a minute)", flush=True)
    with TemporaryDirectory(prefix="session-notes-") as temporary:
        root = Path(temporary) / "root"
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root), mirror]
        # In a mount namespace, so that an interrupted installation leaves no mounts behind.
        if not _run("unshare", "--mount", "timeout", str(_TIME_LIMIT), *command):
            return
        partial = Path(temporary) / ARCHIVE.name
        exclude = [f"--exclude=./{pattern}" for pattern in _EXCLUDED]
        subprocess.run(["tar", "-czf", partial, *exclude, "-C", root, "."], check=True)
        ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
        # The temporary folder may be on another file system, where a move is not atomic.
        shutil.move(partial, ARCHIVE.with_suffix(".partial"))
        ARCHIVE.with_suffix(".partial").replace(ARCHIVE)


def _mirror() -> str:
    """Return the address of the Debian mirror that apt uses; an empty string on another system."""
    system = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    if system.get("ID") != "debian":
        return ""
    release = f"Release: {system['VERSION_CODENAME']}"
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main", release]
    return next(iter(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()), "")


def _run(*command: str) -> bool:
    """Run a program, print the first line of each kind of its output, and return whether it succeeds."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            # For example "I: Retrieving python3 3.13.5-1".
            if line.split()[:2] not in [earlier.split()[:2] for earlier in lines]:
                print(f"  {line.rstrip()}", flush=True)
            lines.append(line.rstrip())
    if process.returncode:
        print("skipped: the base image cannot be installed:", *lines[-3:], sep="\n  ")
    return not process.returncode


if __name__ == "__main__":
    prepare()
