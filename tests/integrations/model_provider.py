"""A model provider on loopback that returns prepared answers."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


class Provider(ThreadingHTTPServer):
    """A provider that returns its answers in order and stores each request with its `path`."""

    daemon_threads = True

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []

    def next_answer(self) -> dict[str, Any]:
        """Return the body of the next response."""
        return self.answers.pop(0)

    def encode(self, answer: dict[str, Any]) -> tuple[str, bytes]:
        """Return the content type and the content of a response."""
        return "application/json", json.dumps(answer).encode()


class _Handler(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(json.loads(request) | {"path": self.path})
        content_type, body = self.server.encode(self.server.next_answer())
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


P = TypeVar("P", bound=Provider)


@contextmanager
def running(provider: P) -> Iterator[P]:
    """Run a provider within the `with` block."""
    with provider:
        thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield provider
        provider.shutdown()
        thread.join()
