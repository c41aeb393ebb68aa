"""The error that ends a bench."""


class BenchError(Exception):
    """A measurement failed. The message gives the reason and the next step."""
