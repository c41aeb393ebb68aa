"""A container without an engine: what the Dockerfile says, run in namespaces of its own, by the kernel's own means.

The root file system is a new one, of what an image would have: a system's /usr and /etc, Python, and what the
Dockerfile's commands have put into /opt/session-notes. All of it is read-only. Nothing can be written but the volumes,
nothing is reached over a network, and the process is number 1, as the image's user, without any capability.
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

# What a runtime gives to every process, as an image does not.
_GIVEN = {"HOME": "/", "PATH": "/usr/local/bin:/usr/bin:/bin"}

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
    """What a stage of the Dockerfile comes to."""

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
    """The stages of the Dockerfile by their names. Whatever is to be run must be in exec form: without a shell."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    stages: dict[str, Image] = {}
    stage = Image()
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        match word:
            case "FROM":
                base, _, name = rest.split()
                before = stages.get(base, Image())
                stage = stages[name] = Image(
                    dict(before.env), before.user, list(before.entrypoint), list(before.command)
                )
            case "ENV":
                stage.env |= {name: said.replace("$PATH", _GIVEN["PATH"]) for name, said in _pairs(rest).items()}
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
                raise AssertionError(f"not known here: {line}")
    return stages


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def build(into: Path) -> None:
    """Run the commands of the stage `build`, over what it copies and no more, with `into` as /opt/session-notes."""
    stage, context = images()["build"], into.with_name("context")
    for *sources, target in stage.copied:
        for source in sources:
            place = context / target / (source if target.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / source, place)
    into.mkdir(parents=True)
    here = f"mount -t tmpfs none /opt; mkdir {INSTALLED}; mount --bind {shlex.quote(str(into))} {INSTALLED}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for command in stage.run:
        # The cache has what pip has fetched for this environment already.
        words = [word for word in command if word != "--no-cache-dir"]
        subprocess.run(
            ["unshare", "--mount", "sh", "-euc", f'{here}; exec "$@"', "sh", *words],
            cwd=context,
            env=os.environ | {"PATH": path},
            check=True,
            capture_output=True,
        )


@dataclass(frozen=True)
class Volume:
    """A directory of the host in a container."""

    host: Path
    inside: str
    writable: bool = True


class Container:
    """A container that runs within the `with` block.

    Args:
        image: What it is of.
        installed: What `build` has made.
        volumes: All that it shares with the host.
        arguments: For the entry point, in place of the image's command.
        env: Beside the image's own.
        user: In place of the image's: `uid:gid`.
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
        self._env = _GIVEN | image.env | dict(env or {})
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
        if found := children.read_text().split():
            return int(found[0])
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
        """All it has written so far."""
        return (self._home / "log").read_text(errors="replace")

    def exec(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end, as an exec probe or `docker exec` does."""
        inside = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts", "--root", "--wd=/"]
        return subprocess.run(
            [*inside, *self._confined(command)], capture_output=True, text=True, timeout=30, check=False
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it as a runtime does, with a signal to its first process → its exit code."""
        os.kill(self.pid, number)
        return self.process.wait(30)
