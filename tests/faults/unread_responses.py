"""A client that never reads responses: its HTTP/2 flow-control windows stay at zero."""

from google.protobuf.message import Message

from tests.faults.frames import INITIAL_WINDOW_SIZE, PREFACE, RST_STREAM, Client, call, settings


class UnreadResponses(Client):
    """An HTTP/2 connection that makes calls and reads no byte of their responses.

    Args:
        target: The sidecar's address: `host:port` or `unix:/path`.
    """

    def __init__(self, target: str) -> None:
        super().__init__(target, PREFACE + settings({INITIAL_WINDOW_SIZE: 0}))
        self._stream = -1

    def call(self, method: str, request: Message, count: int = 1) -> None:
        """Make calls, without a deadline."""
        for _ in range(count):
            self._stream += 2
            self.socket.sendall(call(self._stream, method, request))

    def wait_for_resets(self, count: int = 1) -> None:
        """Read until the sidecar has reset a number of the calls."""
        for received in self.frames():
            count -= received.kind == RST_STREAM
            if not count:
                return
        raise AssertionError("the sidecar closed the connection")
