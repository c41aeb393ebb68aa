"""MCP's conformance suite for servers, against `session-notes mcp --listen`, for two revisions of the protocol.

`make test-integrations` runs it, since only its environment has MCP's package.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compliance.tools import CACHE, entries
from tests.support import Sidecar

pytest.importorskip("mcp")

from tests.integrations.mcp_hosts import Host, host, write_notes

__all__ = ["host"]

PROGRAMS = CACHE / "mcp" / "node_modules" / ".bin"
KNOWN_FAILING = Path(__file__).with_name("known_failing.txt")
REVISIONS = ("2025-11-25", "2026-07-28")
"""The revisions whose requirements the suite knows. Only the second permits calls without a handshake."""


def checks(url: str, revision: str, folder: Path) -> Iterator[tuple[str, bool]]:
    """Run the scenarios of a revision. Yield each check, as `scenario/check`, and whether it passed.

    A skipped check and a warning count as failures.
    """
    suite = [str(PROGRAMS / "node"), str(PROGRAMS / "conformance"), "server"]
    options = ["--url", url, "--requirements", revision, "--output-dir", str(folder)]
    subprocess.run([*suite, *options], check=False, capture_output=True, timeout=100)
    for path in folder.glob("*/checks.json"):
        scenario = re.sub(r"^server-|-\d{4}-\d\d-\d\dT.*$", "", path.parent.name)
        for check in json.loads(path.read_text()):
            if check["status"] != "INFO":
                yield f"{scenario}/{check['id']}", check["status"] == "SUCCESS"


@pytest.mark.timeout(240)
def test_the_server_conforms_to_mcp(host: Host, sidecar: Sidecar, tmp_path: Path) -> None:
    """Every check of the suite passes, except those known to fail, which fail."""
    if not (PROGRAMS / "node").exists():
        pytest.skip("MCP's suite is not installed: run `make test-integrations`, which needs npm")
    known = entries(KNOWN_FAILING)
    write_notes(sidecar.target, "s1")
    passed, failed = set[str](), set[str]()
    with host.listening(sidecar.target) as url:
        for revision in REVISIONS:
            for check, success in checks(url, revision, tmp_path / revision):
                (passed if success else failed).add(check)
    assert failed == known
    assert not passed & known
