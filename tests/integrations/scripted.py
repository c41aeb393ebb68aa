"""A model's provider on loopback: it answers each request with the next of the answers it was given."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Provider(ThreadingHTTPServer):
    """Answers in order, and keeps the requests, each with its `path`."""

    daemon_threads = True

    def __init__(self, *answers: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.answers = list(answers)
        self.requests: list[dict[str, Any]] = []


class _Answering(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        request = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(json.loads(request) | {"path": self.path})
        body = json.dumps(self.server.answers.pop(0)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def provider(*answers: dict[str, Any]) -> Iterator[Provider]:
    """A provider that is there for as long as the block."""
    with Provider(*answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
