"""Faults for real: how much of them, and what every test here needs."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Of two numbers of rounds, the one for `make test`, or with --soak the one for `make soak`."""
    soak = bool(request.config.getoption("--soak"))
    return lambda quick, long: long if soak else quick


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """What chance starts from. The same seed draws the same; how threads take turns, it cannot say."""
    return int(request.config.option.seed)


@pytest.fixture
def again(request: pytest.FixtureRequest, seed: int) -> str:
    """The command that repeats this test, chance included."""
    soak = " --soak --timeout 1800" if request.config.getoption("--soak") else ""
    return f"pytest '{request.node.nodeid}'{soak} --seed {seed}"


@pytest.fixture
def say(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints; in long runs past pytest's capture, so that one sees how far it has come."""

    def say(text: str) -> None:
        with capsys.disabled() if request.config.getoption("--soak") else nullcontext():
            print(text, flush=True)  # noqa: T201

    return say
