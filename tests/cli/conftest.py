"""Fixtures for tests of the command line."""

import pytest

from tests.cli.program import Cli
from tests.support import Sidecar


@pytest.fixture
def cli(sidecar: Sidecar) -> Cli:
    """Return the program, configured for the shared sidecar."""
    return Cli(sidecar.target)
