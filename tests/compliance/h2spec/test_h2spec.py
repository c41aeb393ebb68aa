"""h2spec: HTTP/2 (RFC 7540) and HPACK (RFC 7541), case by case, against the real sidecar."""

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from session_notes_server.settings import EngineName

from tests.compliance.tools import known_failing, program
from tests.support import Sidecar

GROUPS = {
    "Generic tests for HTTP/2 server": "generic",
    "Hypertext Transfer Protocol Version 2 (HTTP/2)": "http2",
    "HPACK: Header Compression for HTTP/2": "hpack",
}

PARALLEL = 16
"""Cases to run at the same time. Most of those that fail wait two seconds for a frame that does not come."""

ATTEMPTS = 5
"""Further attempts at an expected outcome, while no other case runs. If the frames of a case arrive apart, as on a busy
machine, the server may answer the first ones before it sees the wrong one."""


def list_cases(h2spec: str) -> list[str]:
    """Return the ids of all cases, such as `http2/6.5/1`."""
    listing = subprocess.run([h2spec, "--strict", "--dryrun"], check=True, capture_output=True, text=True).stdout
    cases, group, section = list[str](), "", ""
    for line in listing.splitlines():
        group = GROUPS.get(line, group)
        if heading := re.match(r"\s+([\d.]+)\. ", line):
            section = heading[1]
        elif case := re.match(r"\s+(\d+): ", line):
            cases.append(f"{group}/{section}/{case[1]}")
    return cases


def surprise(h2spec: str, target: str, case: str, *, known_to_fail: bool) -> str:
    """Run a case. Return h2spec's output if the outcome is not the expected one, otherwise an empty string.

    A case that does not apply to this server counts as passed.
    """
    command = [h2spec, "--strict", "--port", target.rpartition(":")[2], case]
    output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    assert "1 tests, " in output, output
    return "" if ("1 failed" in output) is known_to_fail else output


@pytest.mark.timeout(300)
def test_the_sidecar_conforms_to_http2(engine: EngineName) -> None:
    """Every case of h2spec passes, except those known to fail, which fail."""
    h2spec, known = program("h2spec"), known_failing("h2spec", engine)
    cases = list_cases(h2spec)
    assert known <= {*cases}
    with Sidecar(flags=["--engine", engine]) as sidecar, ThreadPoolExecutor(PARALLEL) as pool:

        def attempt(case: str) -> str:
            return surprise(h2spec, sidecar.target, case, known_to_fail=case in known)

        outcomes = zip(cases, [*pool.map(attempt, cases)], strict=True)
        surprises = [output for case, output in outcomes if output and all(attempt(case) for _ in range(ATTEMPTS))]
    assert not surprises, "\n".join(surprises)
