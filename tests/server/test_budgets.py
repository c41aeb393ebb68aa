"""Budgets: a total bound, a bound per connection, and a reserve for connections that hold little."""

from session_notes_server.rpc.budgets import Budget


def test_bounds_hold_in_total_and_per_connection() -> None:
    """A connection may exceed neither its own bound nor the total bound."""
    budget = Budget(100, each=50, little=10)
    assert budget.fits(40, 10)
    assert not budget.fits(40, 11)
    budget.total = 90
    assert budget.fits(11, 10)
    assert not budget.fits(11, 11)


def test_a_connection_that_holds_little_may_exceed_its_bound_once() -> None:
    """A response larger than a connection's bound fits if the connection holds little."""
    budget = Budget(100, each=50, little=10)
    assert budget.fits(0, 100)
    assert budget.fits(10, 90)
    assert not budget.fits(11, 90)
    assert not budget.fits(0, 101)


def test_the_reserve_is_for_connections_that_hold_little() -> None:
    """At the total bound, small amounts fit until the reserve is full, and large amounts do not."""
    budget = Budget(100, each=50, little=10)
    budget.total = 100
    assert budget.fits(0, 0)
    assert budget.fits(5, 5)
    assert not budget.fits(5, 6)
    budget.total = 125
    assert budget.fits(0, 0)
    assert not budget.fits(0, 1)
