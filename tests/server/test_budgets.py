"""What callers share: a bound in all, one per connection, and room that is left to those who hold little."""

from session_notes_server.rpc.budgets import Budget


def test_a_connection_has_its_part_and_no_more() -> None:
    """Beyond its part it is refused, and so is all beyond the bound."""
    budget = Budget(100, each=50, little=10)
    assert budget.fits(40, 10)
    assert not budget.fits(40, 11)
    budget.total = 90
    assert budget.fits(11, 10)
    assert not budget.fits(11, 11)


def test_one_thing_more_than_a_part_fits_where_little_is_held() -> None:
    """An answer that is larger than a connection's part is no reason to refuse it for ever."""
    budget = Budget(100, each=50, little=10)
    assert budget.fits(0, 100)
    assert budget.fits(10, 90)
    assert not budget.fits(11, 90)
    assert not budget.fits(0, 101)


def test_a_connection_that_holds_little_finds_room() -> None:
    """However much others hold, until the quarter more is full, too; what is large finds none."""
    budget = Budget(100, each=50, little=10)
    budget.total = 100
    assert budget.fits(0, 0)
    assert budget.fits(5, 5)
    assert not budget.fits(5, 6)
    budget.total = 125
    assert budget.fits(0, 0)
    assert not budget.fits(0, 1)
