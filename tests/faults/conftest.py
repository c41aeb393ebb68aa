"""Fixtures of the fault tests: effort, seed and progress output."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest


@pytest.fixture
def effort(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Choose between two numbers of rounds: the first by default, the second with --soak."""
    soak = bool(request.config.getoption("--soak"))
    return lambda quick, long: long if soak else quick


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of random choices. It does not fix the order of threads."""
    return int(request.config.option.seed)


@pytest.fixture
def repeat_command(request: pytest.FixtureRequest, seed: int) -> str:
    """The command that repeats this test with the same seed."""
    soak = " --soak --timeout 1800" if request.config.getoption("--soak") else ""
    return f"pytest '{request.node.nodeid}'{soak} --seed {seed}"


@pytest.fixture
def print_progress(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Print progress, with --soak even while pytest captures output."""

    def print_progress(text: str) -> None:
        with capsys.disabled() if request.config.getoption("--soak") else nullcontext():
            print(text, flush=True)  # noqa: T201

    return print_progress
