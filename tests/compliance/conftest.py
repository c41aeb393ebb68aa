"""Fixtures for the suites of gRPC and HTTP/2, which run on both engines, whatever --engine says."""

import pytest
from session_notes_server.settings import EngineName


@pytest.fixture(scope="module", params=[EngineName.NATIVE, EngineName.GRPCIO])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """The engine under test."""
    return EngineName(request.param)
