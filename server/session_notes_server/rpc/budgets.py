"""Budgets: bounds shared by all connections, which no single connection can exhaust."""

from __future__ import annotations


class Budget:
    """A total bound, a bound per connection, and a reserve for connections that hold little.

    Without the reserve, a few connections that reach the total bound would lock out all others.

    Args:
        bound: The most that all connections may hold. The reserve is an additional quarter of this.
        each: The most that one connection may hold. A connection that holds little may exceed it once.
        little: The most that counts as little.
    """

    __slots__ = ("_each", "_little", "_with_reserve", "bound", "total")

    def __init__(self, bound: int, *, each: int, little: int) -> None:
        self.bound = bound
        self._with_reserve = bound + max(bound // 4, 1)
        self._each = each
        self._little = little
        self.total = 0
        """How much all connections hold."""

    def fits(self, held: int, more: int) -> bool:
        """Return whether a connection that holds `held` may take `more`."""
        total, held_after = self.total + more, held + more
        if held_after <= self._little:
            return total <= self._with_reserve
        return total <= self.bound and (held_after <= self._each or held <= self._little)
