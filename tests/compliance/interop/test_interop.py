"""The official gRPC interop client: calls of all kinds, metadata, statuses, deadlines and cancellation."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from session_notes_server.settings import EngineName

from tests.compliance.tools import program

CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
]
"""All cases of the client, except those that need Google's credentials or several servers."""


@pytest.fixture(scope="module")
def port(engine: EngineName) -> Iterator[str]:
    """The port of grpc.testing.TestService on the engine."""
    program("client")
    command = [sys.executable, "-m", "tests.compliance.server", "interop", engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.mark.parametrize("case", CASES)
def test_the_interop_client_succeeds(port: str, case: str) -> None:
    """The interop client finds nothing wrong."""
    command = [program("client"), "-server_host", "127.0.0.1", "-server_port", port, "-test_case", case]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
