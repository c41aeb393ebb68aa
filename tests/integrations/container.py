"""Containers without a container engine: the Dockerfile's images in Linux namespaces.

The root file system is that of an image that buildah built, but without shells and pip. Without buildah, it is the
system of this machine with the image's files. It is read-only except for the volumes. The container has no network
besides loopback. It runs the image's command as process 1, as the image's user and without capabilities.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.integrations.images import SEARCH_PATH, Image, Volume
from tests.support import eventually

# The environment that a container runtime adds to the image's.
_RUNTIME_ENV = {"HOME": "/", "PATH": SEARCH_PATH}

_RUN = r"""
root=$1; layer=$2; image=$3; shift 3
bind() {
  if [ -d "$1" ]; then mkdir -p "$root$2"; elif [ ! -e "$root$2" ]; then : > "$root$2"; fi
  mount --bind "$1" "$root$2"; [ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
}
mount -t tmpfs -o mode=0755 none "$layer"
if [ -n "$image" ]; then
  mkdir "$layer/upper" "$layer/work"
  mount -t overlay -o "lowerdir=$image,upperdir=$layer/upper,workdir=$layer/work" none "$root"
  rm -f "$root"/usr/bin/sh "$root"/usr/bin/*ash "$root"/usr/bin/pip*
else
  mount --bind "$layer" "$root"
  for name in bin sbin lib lib64 usr etc; do
    if [ -L /$name ]; then cp -P /$name "$root/$name"; elif [ -d /$name ]; then bind /$name /$name ro; fi
  done
fi
mkdir -p "$root/proc" "$root/dev"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=0755 none "$root/dev"
for name in null zero random urandom; do bind /dev/$name /dev/$name rw; done
while [ "$1" != -- ]; do bind "$1" "$2" "$3"; shift 3; done
shift
mount -o remount,ro "$root"
ip link set lo up
exec chroot "$root" "$@"
"""


class Container:
    """A container that runs within the `with` block.

    Args:
        image: The image.
        volumes: The directories and files shared with the host.
        arguments: Arguments of the entry point, instead of the image's command.
        env: Environment variables besides the image's.
        user: The user as `uid:gid`, instead of the image's.
        network: A running container whose loopback network this one shares.
    """

    def __init__(
        self,
        image: Image,
        volumes: Sequence[Volume],
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        user: str = "",
        network: "Container | None" = None,
    ) -> None:
        self._command = [*image.entrypoint, *(arguments or image.command)]
        self._env = _RUNTIME_ENV | image.env | dict(env or {})
        self._user = user or image.user
        self._root = image.root
        self._volumes = [*image.files, *volumes]
        self._network = network

    def __enter__(self) -> Self:
        self._home = Path(tempfile.mkdtemp(prefix="session-notes-"))
        # Filled in the container's mount namespace.
        root, layer = self._home / "root", self._home / "layer"
        root.mkdir()
        layer.mkdir()
        share = ["nsenter", f"--target={self._network.pid}", "--net"] if self._network else []
        namespaces = ["--mount", "--pid", "--ipc", "--uts", *([] if self._network else ["--net"])]
        binds = [
            word
            for volume in self._volumes
            for word in (str(volume.host), volume.inside, "rw" if volume.writable else "ro")
        ]
        with (self._home / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(*share, "unshare", *namespaces, "--fork", "--kill-child"),
                    *("sh", "-euc", _RUN, "sh", str(root), str(layer), str(self._root or ""), *binds, "--"),
                    *self._confined(self._command),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.pid: int = eventually(self._first_process)
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
