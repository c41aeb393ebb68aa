"""The images of the Dockerfile: built by buildah, or without it imitated on this machine's system."""

import ast
import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.integrations.base_image import ARCHIVE, DOCKERFILE, ROOT, TAG, missing

TARGETS = ("sidecar", "examples")
INSTALLED = "/opt/session-notes"

SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
"""The PATH of the base image."""

_TIME_LIMIT = 240
"""The time limit of a build, in seconds."""


@dataclass(frozen=True)
class Volume:
    """A directory or file of the host that a container shares."""

    host: Path
    inside: str
    writable: bool = True


@dataclass
class Image:
    """The configuration and the contents of an image.

    Attributes:
        root: The root file system. None: the system of this machine.
        files: What the image adds to the system of this machine.
    """

    env: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    root: Path | None = None
    files: list[Volume] = field(default_factory=list)


@dataclass
class Stage:
    """A stage of the Dockerfile: the configuration of its image, and its COPY and RUN instructions."""

    image: Image = field(default_factory=Image)
    copied: list[list[str]] = field(default_factory=list)
    run: list[list[str]] = field(default_factory=list)


def stages() -> dict[str, Stage]:
    """Return the stages of the Dockerfile by name. All commands must be in exec form, without a shell."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#"))
    found: dict[str, Stage] = {}
    stage = Stage()
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        image = stage.image
        match word:
            case "FROM":
                base, _, name = rest.split()
                parent = found[base].image if base in found else Image(env={"PATH": SEARCH_PATH})
                stage = found[name] = Stage(copy.deepcopy(parent))
            case "ENV":
                image.env |= {name: text.replace("$PATH", image.env["PATH"]) for name, text in _pairs(rest).items()}
            case "LABEL":
                image.labels |= _pairs(rest)
            case "USER":
                image.user = rest
            case "ENTRYPOINT":
                image.entrypoint = json.loads(rest)
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.healthcheck = json.loads(rest.partition(" CMD ")[2])
            case "RUN":
                stage.run.append(json.loads(rest))
            case "COPY":
                stage.copied.append(rest.split())
            case "STOPSIGNAL":
                image.stop_signal = rest
            case "ARG" | "WORKDIR" | "":
                pass
            case _:
                raise AssertionError(f"unsupported instruction: {line}")
    return found


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in shlex.split(text))


def build(into: Path) -> None:
    """Make the contents of the images in a new folder: with buildah, or else for this machine's system."""
    into.mkdir()
    if missing():
        _install(into)
    else:
        _build(into)


def built(folder: Path) -> dict[str, Image]:
    """Return the images by target, with the contents that `build` made in this folder."""
    if (folder / TARGETS[0]).exists():
        return {target: _inspected(folder / target) for target in TARGETS}
    images = {}
    for target in TARGETS:
        stage = stages()[target]
        images[target] = stage.image
        stage.image.files.append(Volume(folder / "installed", INSTALLED, writable=False))
        if not sys.base_prefix.startswith("/usr"):
            stage.image.files.append(Volume(Path(sys.base_prefix), sys.base_prefix, writable=False))
        for source, inside in stage.copied:
            stage.image.files.append(Volume(ROOT / source, inside, writable=False))
    return images


def _build(into: Path) -> None:
    """Build all targets with buildah: for each, a folder with its root file system and its configuration."""
    with TemporaryDirectory(prefix="session-notes-") as temporary:
        buildah = ("buildah", "--root", f"{temporary}/storage", "--runroot", f"{temporary}/run")

        def run(*command: str | Path) -> str:
            # In a mount namespace, so that no mount is left behind.
            done = subprocess.run(
                ["unshare", "--mount", *command],
                env=os.environ | {"TMPDIR": temporary},
                capture_output=True,
                text=True,
                timeout=_TIME_LIMIT,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout.strip()

        base = Path(temporary) / "base"
        _write_base(base)
        # With layers, targets share their common stages. Images in OCI's format have no health check.
        options = ("--isolation=chroot", "--layers", "--format=docker", "--pull-never", "--identity-label=false")
        build = (*buildah, "build", *options)
        run(*build, "--tag", f"docker.io/library/python:{TAG}", base)
        for target in TARGETS:
            files = ("--file", DOCKERFILE, "--ignorefile", f"{DOCKERFILE}.dockerignore")
            run(*build, *files, "--target", target, "--tag", target, ROOT)
            (into / target).mkdir()
            (into / target / "inspect.json").write_text(run(*buildah, "inspect", "--type", "image", target))
            container = run(*buildah, "from", "--pull-never", target)
            run("sh", "-euc", 'cp -a "$("$@")" "$0"', into / target / "root", *buildah, "mount", container)


def _write_base(context: Path) -> None:
    """Write the build context of the base image, whose pip has the configuration of this machine's pip."""
    context.mkdir()
    shutil.copy(ARCHIVE, context)
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    # For example "global.index-url='https://pypi.org/simple'" or ":env:.timeout='60'".
    pairs = re.findall(r"^\S*\.([\w-]+)=(.*)$", listed, re.MULTILINE)
    settings = {name: ast.literal_eval(text) for name, text in pairs}
    if "cert" in settings:
        shutil.copy(settings["cert"], context / "pip.pem")
        settings["cert"] = "/etc/pip.pem"
    (context / "pip.conf").write_text("\n".join(["[global]", *(f"{name} = {text}" for name, text in settings.items())]))
    (context / "Dockerfile").write_text(
        f"FROM scratch\nADD {ARCHIVE.name} /\nCOPY pip.* /etc/\nENV PATH={SEARCH_PATH}\n"
    )


def _inspected(folder: Path) -> Image:
    """Return an image that buildah built."""
    config = json.loads((folder / "inspect.json").read_text())["Docker"]["config"]
    kind, *healthcheck = config.get("Healthcheck", {}).get("Test", ["NONE"])
    assert kind in ("CMD", "NONE"), kind
    return Image(
        env=dict(variable.split("=", 1) for variable in config["Env"]),
        user=config["User"],
        entrypoint=config["Entrypoint"],
        command=config["Cmd"],
        healthcheck=healthcheck,
        labels=config["Labels"] or {},
        stop_signal=config.get("StopSignal", ""),
        root=folder / "root",
    )


def _install(into: Path) -> None:
    """Run the commands of the stage `build` on its copied files, with `installed` as /opt/session-notes."""
    stage, context, installed = stages()["build"], into / "context", into / "installed"
    for *sources, target in stage.copied:
        for source in sources:
            path = context / target / (source if target.endswith("/") else "")
            path.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, path, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                shutil.copy(ROOT / source, path)
    installed.mkdir()
    mount = f"mount -t tmpfs none /opt; mkdir {INSTALLED}; mount --bind {shlex.quote(str(installed))} {INSTALLED}"
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
