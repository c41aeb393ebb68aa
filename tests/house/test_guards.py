"""The guards in tests/guards.toml match the code, so that `make guards` can remove them."""

import pytest

from tests.guards import GUARDS, Guard, files_with


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.promise)
def test_each_guard_is_in_the_code_once(guard: Guard) -> None:
    """A guard's code occurs exactly once, wherever its file is."""
    assert len(files_with(guard)) == 1


def test_guards_are_few() -> None:
    """The guards cover the rules and the measured promises, in at most 80 entries."""
    assert len(GUARDS) <= 80
