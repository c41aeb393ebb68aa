"""Containers without a container engine: the Dockerfile's image in Linux namespaces.

The root file system has the contents of the image: the system's /usr and /etc, Python, and the result of the
Dockerfile's commands in /opt/session-notes. It is read-only except for the volumes. The container has no network. It
runs the image's command as process 1, as the image's user and without capabilities.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support import eventually

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
INSTALLED = "/opt/session-notes"

# The environment that a container runtime adds to the image's.
_RUNTIME_ENV = {"HOME": "/", "PATH": "/usr/local/bin:/usr/bin:/bin"}

_RUN = r"""
root=$1; installed=$2; python=$3; shift 3
bind() { mkdir -p "$root$2"; mount --bind "$1" "$root$2"; [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"; }
mount -t tmpfs -o mode=0755 none "$root"
for name in bin sbin lib lib64; do
  if [ -L /$name ]; then cp -P /$name "$root/$name"; elif [ -d /$name ]; then bind /$name /$name ro; fi
done
bind /usr /usr ro; bind /etc /etc ro; bind "$installed" /opt/session-notes ro
case $python in /usr*) ;; *) bind "$python" "$python" ro;; esac
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
for name in null zero random urandom; do : > "$root/dev/$name"; mount --bind /dev/$name "$root/dev/$name"; done
while [ "$1" != -- ]; do bind "$1" "$2" "$3"; shift 3; done
shift
mount -o remount,ro "$root"
ip link set lo up
exec chroot "$root" "$@"
"""


@dataclass
class Image:
    """The result of a Dockerfile stage."""

    env: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    copied: list[list[str]] = field(default_factory=list)
    run: list[list[str]] = field(default_factory=list)
    stop_signal: str = ""


def images() -> dict[str, Image]:
    """Return the stages of the Dockerfile by name. All commands must be in exec form, without a shell."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    stages: dict[str, Image] = {}
    stage = Image()
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.split()
                parent = stages.get(base, Image())
                stage = stages[name] = Image(
                    dict(parent.env), parent.user, list(parent.entrypoint), list(parent.command)
                )
            case "ENV":
                stage.env |= {name: text.replace("$PATH", _RUNTIME_ENV["PATH"]) for name, text in _pairs(rest).items()}
            case "LABEL":
                stage.labels |= _pairs(rest)
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case "CMD":
                stage.command = json.loads(rest)
            case "HEALTHCHECK":
                stage.healthcheck = json.loads(rest.partition(" CMD ")[2])
            case "RUN":
                stage.run.append(json.loads(rest))
            case "COPY":
                stage.copied.append(rest.split())
            case "STOPSIGNAL":
                stage.stop_signal = rest
            case "ARG" | "WORKDIR" | "":
                pass
            case _:
                raise AssertionError(f"unsupported instruction: {line}")
    return stages


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def build(into: Path) -> None:
    """Run the commands of the stage `build` on its copied files, with `into` as /opt/session-notes."""
    stage, context = images()["build"], into.with_name("context")
    for *sources, target in stage.copied:
        for source in sources:
            path = context / target / (source if target.endswith("/") else "")
            path.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, path, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / source, path)
    into.mkdir(parents=True)
    mount = f"mount -t tmpfs none /opt; mkdir {INSTALLED}; mount --bind {shlex.quote(str(into))} {INSTALLED}"
    search_path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in stage.run:
        # Use pip's cache, which already has the packages of this environment.
        words = [word for word in command if word != "--no-cache-dir"]
        subprocess.run(
            ["unshare", "--mount", "sh", "-euc", f'{mount}; exec "$@"', "sh", *words],
            cwd=context,
            env=os.environ | {"PATH": search_path},
            check=True,
            capture_output=True,
        )


@dataclass(frozen=True)
class Volume:
    """A directory of the host that a container shares."""

    host: Path
    inside: str
    writable: bool = True


class Container:
    """A container that runs within the `with` block.

    Args:
        image: The image.
        installed: The folder that `build` made.
        volumes: The directories shared with the host.
        arguments: Arguments of the entry point, instead of the image's command.
        env: Environment variables besides the image's.
        user: The user as `uid:gid`, instead of the image's.
    """

    def __init__(
        self,
        image: Image,
        installed: Path,
        volumes: Sequence[Volume],
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        user: str = "",
    ) -> None:
        self._command = [*image.entrypoint, *(arguments or image.command)]
        self._env = _RUNTIME_ENV | image.env | dict(env or {})
        self._user = user or image.user
        self._installed = installed
        self._volumes = volumes

    def __enter__(self) -> Self:
        self._home = Path(tempfile.mkdtemp(prefix="session-notes-"))
        (self._home / "root").mkdir()
        binds = [
            word
            for volume in self._volumes
            for word in (str(volume.host), volume.inside, "rw" if volume.writable else "ro")
        ]
        with (self._home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"),
                    *("sh", "-euc", _RUN, "sh", str(self._home / "root"), str(self._installed), sys.base_prefix),
                    *(*binds, "--", *self._confined(self._command)),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.pid = eventually(self._first_process)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin:
            with suppress(OSError):
                self.process.stdin.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(10)
        shutil.rmtree(self._home)

    def _first_process(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if pids := children.read_text().split():
            return int(pids[0])
        assert self.process.poll() is None, self.log
        return 0

    def _confined(self, command: Sequence[str]) -> list[str]:
        uid, gid = self._user.split(":")
        return [
            *("setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all"),
            *("env", "-i", *(f"{name}={text}" for name, text in self._env.items()), *command),
        ]

    @property
    def log(self) -> str:
        """The output of the container so far."""
        return (self._home / "log").read_text(errors="replace")

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container until it ends, as an exec probe or `docker exec` does."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd=/"]
        return subprocess.run(
            [*inside, *self._confined(command)], capture_output=True, text=True, timeout=30, check=False
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop the container with a signal to its first process, as a runtime does. Return the exit code."""
        os.kill(self.pid, number)
        return self.process.wait(30)
