"""Faults for real: how much of them, and what every test here needs."""

from collections.abc import Callable

import pytest


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Of two numbers of rounds, the one for `make test`, or with --soak the one for `make soak`."""
    soak = bool(request.config.getoption("--soak"))
    return lambda quick, long: long if soak else quick
