"""Compliance suites of other projects, one folder each. `python -m tests.compliance.tools` builds those in Go."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from session_notes_server.settings import EngineName

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "compliance"

GRPC = "google.golang.org/grpc@v1.85.0"
CONNECT = "connectrpc.com/conformance@v1.0.7"
# Release 2.6.0, whose tag is not a valid module version.
H2SPEC = "github.com/summerwind/h2spec@v0.0.0-20200804131034-70ac22940108"
# The last minor version that needs no newer Go than gRPC does.
PROMETHEUS = "github.com/prometheus/prometheus@v0.315.1"

PROGRAMS = {
    "h2spec": (H2SPEC, "cmd/h2spec"),
    "client": (GRPC, "interop/client"),
    "connectconformance": (CONNECT, "cmd/connectconformance"),
}
"""Programs: the module, and the package in it."""

INTEROP_DESCRIPTORS = CACHE / "interop.binpb"
CONNECT_DESCRIPTORS = CACHE / "connect.binpb"

_BUILT = CACHE / "built"
_LINEARIZABILITY = Path(__file__).with_name("linearizability")
_LINEARIZABILITY_FILES = [(_LINEARIZABILITY / name).read_text() for name in ("go.mod", "check.go")]
_VERSIONS = "\n".join((GRPC, CONNECT, H2SPEC, PROMETHEUS, *_LINEARIZABILITY_FILES))


def program(name: str) -> str:
    """Return the path of a program. Skip the test if it is not built."""
    if not _built():
        pytest.skip(f"{name} is not built: run `make compliance`, which needs Go")
    return str(CACHE / "bin" / name)


def known_failing_file(suite: str, engine: EngineName) -> Path:
    """Return the file of the cases that are known to fail, with reasons in comments."""
    return Path(__file__).with_name(suite) / f"known_failing_{engine}.txt"


def known_failing(suite: str, engine: EngineName) -> set[str]:
    """Return the cases that are known to fail."""
    return entries(known_failing_file(suite, engine))


def entries(file: Path) -> set[str]:
    """Return the lines of a file, without comments and empty lines."""
    return {line for line in file.read_text().splitlines() if line and not line.startswith("#")}


def _built() -> bool:
    return _BUILT.exists() and _BUILT.read_text() == _VERSIONS


def build() -> None:
    """Build the programs and descriptors unless they are built, and print what happens.

    Without Go, or offline, nothing is built, and the tests are skipped.
    """
    if _built():
        return
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        print("skipped: the compliance suites need Go")
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    # Do not download another Go, and ignore Prometheus's workspace, whose other modules are not downloaded.
    os.environ |= {"GOBIN": str(CACHE / "bin"), "GOTOOLCHAIN": "local", "GOWORK": "off"}
    try:
        for name, (module, package) in PROGRAMS.items():
            print(f"building {name} from {module}", flush=True)
            path, _, version = module.partition("@")
            _run(go, "install", f"{path}/{package}@{version}")
        print("building linearizability with porcupine", flush=True)
        _run(go, "build", "-C", str(_LINEARIZABILITY), "-o", str(CACHE / "bin" / "linearizability"), ".")
        modules = Path(_run(go, "env", "GOMODCACHE").decode().strip())
        # Compiled in the context of its module, the file needs no go.mod.
        source = Path(__file__).with_name("interop") / "descriptors.go"
        INTEROP_DESCRIPTORS.write_bytes(_run(go, "run", "-C", str(modules / GRPC), str(source)))
        print(f"building promtool from {PROMETHEUS}", flush=True)
        # `go install` rejects its module, which replaces others. Service discovery takes most of the time to compile.
        _run(go, "mod", "download", PROMETHEUS)
        promtool = ("-tags", "remove_all_sd", "-o", str(CACHE / "bin" / "promtool"), "./cmd/promtool")
        _run(go, "build", "-C", str(modules / PROMETHEUS), *promtool)
        buf = str(Path(sys.executable).with_name("buf"))
        CONNECT_DESCRIPTORS.write_bytes(_run(buf, "build", str(modules / CONNECT / "proto"), "--output", "-"))
    except subprocess.CalledProcessError as error:
        print(f"skipped: the compliance suites cannot be built:\n{error.stderr.decode()}")
        return
    _BUILT.write_text(_VERSIONS)


def _run(*command: str) -> bytes:
    return subprocess.run(command, check=True, capture_output=True).stdout


if __name__ == "__main__":
    build()
