"""Budgets that callers share and cannot take from each other."""

from __future__ import annotations


class Budget:
    """A bound in all, one per connection, and room that is left to connections which hold little.

    Without that room, a few connections that fill the bound would lock all others out.

    Args:
        bound: How much all connections may hold. Beyond it a quarter more is left to connections that hold little.
        each: How much one connection may hold, except that one which holds little may always take one thing more.
        little: How much counts as little.
    """

    __slots__ = ("_bound", "_each", "_little", "_with_spare", "total")

    def __init__(self, bound: int, *, each: int, little: int) -> None:
        self._bound = bound
        self._with_spare = bound + max(bound // 4, 1)
        self._each = each
        self._little = little
        self.total = 0
        """How much all connections hold."""

    def fits(self, held: int, more: int) -> bool:
        """Return whether a connection that holds so much may take so much more."""
        total, theirs = self.total + more, held + more
        if theirs <= self._little:
            return total <= self._with_spare
        return total <= self._bound and (theirs <= self._each or held <= self._little)
