"""The rules of the contract, one file each, on every kind of store."""

import pytest
from session_notes_server.settings import EngineName

from tests.stores import KINDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test once per kind of store. On grpc.aio one kind is enough, because engines do not know the store."""
    if "sidecar" in metafunc.fixturenames:
        kinds = KINDS if metafunc.config.option.engine == EngineName.NATIVE else ("embedded",)
        if metafunc.config.getoption("--redis-url"):
            kinds = ("given",)
        metafunc.parametrize("sidecar", kinds, indirect=True, scope="session")
