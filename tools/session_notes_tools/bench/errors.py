"""The error of the bench."""


class BenchError(Exception):
    """A measurement failed. The message gives the reason and the next step.

    Args:
        text: The message.
        log: The output of the process that failed, if any.
    """

    def __init__(self, text: str, log: str = "") -> None:
        super().__init__(text)
        self.log = log
