"""Connect's conformance suite, for gRPC over HTTP/2, with and without TLS."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from session_notes_server.settings import EngineName

from tests.compliance.tools import known_failing_file, program

CONFIGURATION = Path(__file__).with_name("connect.yaml")

# gRPC's HPACK decoder keeps the error of an invalid grpc-encoding for later requests on the connection that refer to
# the same entry, so other cases would fail at random.
APART = {EngineName.NATIVE: [], EngineName.GRPCIO: ["**/unexpected-compression"]}
"""Cases that run on connections of their own, because they disturb others."""

# If a unary request ends without a message, grpc.aio never sends a response.
UNANSWERED = {EngineName.NATIVE: [], EngineName.GRPCIO: ["**/unary/no-request", "**/server-stream/no-request"]}
"""Cases in which the server never responds. The runner gives up when the first of them times out."""


def run(engine: EngineName, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run the suite. It fails if a case fails that is not known to, or if a case passes that is known to fail."""
    known = f"@{known_failing_file('connect', engine)}"
    command = [
        program("connectconformance"),
        "--mode",
        "server",
        "--conf",
        str(CONFIGURATION),
        "--known-failing",
        known,
    ]
    server = [sys.executable, "-m", "tests.compliance.server", "connect", engine]
    return subprocess.run([*command, *flags, "--", *server], check=False, capture_output=True, text=True)


def wrong(result: subprocess.CompletedProcess[str]) -> str:
    """Return the runner's output without the cases that failed as expected."""
    expected = re.compile(r"^INFO: .* failed \(as expected\):\n(?:\t.*\n)*", re.MULTILINE)
    return expected.sub("", result.stdout) + result.stderr


@pytest.mark.timeout(300)
def test_the_engine_passes_the_suite(engine: EngineName) -> None:
    """Every case passes, except those known to fail, which fail."""
    others = [f"--skip={pattern}" for pattern in APART[engine] + UNANSWERED[engine]]
    result = run(engine, *others)
    assert result.returncode == 0, wrong(result)


@pytest.mark.parametrize(
    ("engine", "pattern"), [(engine, pattern) for engine, patterns in APART.items() for pattern in patterns]
)
def test_a_case_apart(engine: EngineName, pattern: str) -> None:
    """A case that disturbs others passes, or is known to fail and does."""
    result = run(engine, f"--run={pattern}")
    assert result.returncode == 0, wrong(result)


@pytest.mark.parametrize("engine", [engine for engine, patterns in UNANSWERED.items() if patterns])
def test_a_case_without_a_response(engine: EngineName) -> None:
    """A case in which the server is known not to respond still has no response."""
    patterns = UNANSWERED[engine]
    result = run(engine, *(f"--run={pattern}" for pattern in patterns))
    failed = re.findall(r"^FAILED: .*:\n\tfailed to get result from client: timed out", result.stdout, re.MULTILINE)
    assert len(failed) == 2 * len(patterns), result.stdout  # With and without TLS.
