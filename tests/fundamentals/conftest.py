"""The rules of the contract, one file each, on every kind of store."""

import pytest

from tests.stores import KINDS


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test once per kind of store."""
    if "sidecar" in metafunc.fixturenames:
        given = metafunc.config.getoption("--redis-url")
        kinds = ("given",) if given else KINDS
        metafunc.parametrize("sidecar", kinds, indirect=True, scope="session")
