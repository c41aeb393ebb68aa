"""The error that ends a bench."""


class BenchError(Exception):
    """A measurement failed. The text tells the operator why and what to do."""
