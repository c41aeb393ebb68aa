"""Fixtures of the command line's tests."""

import pytest

from tests.cli.program import Cli
from tests.support import Sidecar


@pytest.fixture
def cli(sidecar: Sidecar) -> Cli:
    """The program, told where the shared sidecar is."""
    return Cli(sidecar.target)
