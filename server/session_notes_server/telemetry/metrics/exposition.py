"""The HTTP port for metrics in Prometheus's formats, and for probes. Only this module imports prometheus_client."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import io
import logging
import platform
import socket
import socketserver
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from time import monotonic
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, GCCollector, MetricsHandler, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from session_notes_server.addresses import AddressError, host_and_port
from session_notes_server.settings import InvalidSetting
from session_notes_server.telemetry.metrics.cells import Cells, series, value
from session_notes_server.telemetry.metrics.families import ALL, LAST_TICK, LIVE, READY, Family

log = logging.getLogger(__name__)

Processes = Callable[[], Mapping[str, int]]
"""Returns the ids of a sidecar's current processes, by name."""

Serving = Callable[[], Sequence[Cells]]
"""Returns the cells of the processes that serve calls now."""

PATH = "/metrics"

PROBES = {
    "/livez": (LIVE, "not serving: the sidecar is starting or stopping, or hangs"),
    "/readyz": (READY, "not ready: the store cannot be used, or the sidecar is not serving"),
}
"""The probes: the gauge that must be 1, and the response if it is not."""

HANGING_SECONDS = 5.0
"""A process hangs if its event loop has not run for this long. It runs ten times a second."""

# Enough for one or two Prometheus servers, whose scrapes take several milliseconds, and probes.
MAX_CONNECTIONS, IDLE_SECONDS = 8, 5.0


@contextlib.asynccontextmanager
async def exposed(
    address: str, cells: Sequence[Cells], serving: Serving, processes: Processes | None = None
) -> AsyncIterator[None]:
    """Serve scrapes and probes within the block.

    Args:
        address: `host:port`. Port 0 selects a free port.
        cells: The cells of every process that serves calls.
        serving: The cells of those that serve calls now. A worker that is being restarted is not one of them, because
            connections go to the others.
        processes: The processes of a sidecar with workers, or None for this process only.

    Raises:
        AddressError: If the address is in use, or is not one of this machine.
        InvalidSetting: If the address is malformed.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers(cells))
    registry.register(_Build())
    if processes is None:
        ProcessCollector(registry=registry)
        # GCCollector registers itself.
        GCCollector(registry=registry)
    else:
        registry.register(_EachProcess(processes))
    with _listening(address, registry, serving) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        log.info("metrics at http://%s:%d%s", address.rpartition(":")[0], server.server_address[1], PATH)
        try:
            yield
        finally:
            await asyncio.to_thread(server.shutdown)


class _Numbers(Collector):
    """The numbers of all processes, combined."""

    def __init__(self, cells: Sequence[Cells]) -> None:
        self._cells = cells

    def collect(self) -> Iterator[Metric]:
        for family in ALL:
            metric = _EMPTY[family.kind](family.name, family.text, labels=family.labels)
            for labels, indices in series(family):
                numbers = [family.combine(cells[index] for cells in self._cells) for index in indices]
                _fill(metric, family, labels, numbers)
            yield metric


_EMPTY: Mapping[str, Callable[..., Metric]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _fill(metric: Any, family: Family, labels: Sequence[str], numbers: Sequence[float]) -> None:
    if family.kind != "histogram":
        metric.add_metric(labels, numbers[0])
        return
    *counts, total = numbers
    below, buckets = 0.0, []
    for bound, count in zip((*map(str, family.bounds), "+Inf"), counts, strict=True):
        buckets.append((bound, below := below + count))
    metric.add_metric(labels, buckets, total)


class _Build(Collector):
    """The versions of the sidecar, Python and grpcio."""

    def __init__(self) -> None:
        labels = {"version": version("session-notes"), "python": platform.python_version(), "grpc": grpc.__version__}
        text = "1, with the versions of the sidecar, Python and grpcio."
        self._metric = GaugeMetricFamily("session_notes_build_info", text, labels=[*labels])
        self._metric.add_metric([*labels.values()], 1)

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class _EachProcess(Collector):
    """prometheus_client's metrics of a process, per process. A new process starts at 0, so they are not summed."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        metrics: dict[str, Metric] = {}
        for name, pid in self._processes().items():
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                merged = metrics.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                merged.samples += [sample._replace(labels={"process": name}) for sample in metric.samples]
        yield from metrics.values()


def _all_pass(processes: Sequence[Cells], gauge: Family) -> bool:
    """Return whether a gauge is 1 in all processes that serve calls, none of them hangs, and there is one."""
    oldest_tick = monotonic() - HANGING_SECONDS
    return bool(processes) and all(
        value(cells, gauge) == 1.0 and value(cells, LAST_TICK) > oldest_tick for cells in processes
    )


@contextlib.contextmanager
def _listening(address: str, registry: CollectorRegistry, serving: Serving) -> Iterator[_Server]:
    try:
        host, port = host_and_port(address)
    except InvalidSetting:
        text = f"cannot serve metrics on {address}: write host:port, with a port from 0 to 65535."
        raise InvalidSetting(text) from None
    try:
        ((family, _, _, _, sockaddr), *_) = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        _Server.address_family = family
        handler = type("_Handler", (_Handler,), {"registry": registry, "serving": staticmethod(serving)})
        server = _Server(sockaddr[:2], handler)
    except (OSError, UnicodeError):
        raise AddressError(
            f"cannot serve metrics on {address}: it is in use, or not an address of this machine. Choose another with "
            "--metrics-listen."
        ) from None
    with server:
        yield server


class _Handler(MetricsHandler):
    """Handles the requests of one connection, and closes it when idle."""

    timeout = IDLE_SECONDS
    serving: Serving

    def do_GET(self) -> None:
        """Return the metrics, or answer a probe. Any other path is an error, so that a misspelt probe fails."""
        path = self.path.partition("?")[0]
        if path == PATH:
            super().do_GET()
        elif path in PROBES:
            gauge, failure = PROBES[path]
            passes = _all_pass(self.serving(), gauge)
            self._respond(200 if passes else 503, "ok" if passes else failure)
        else:
            self._respond(404, f"not found: this port serves {PATH}, {' and '.join(PROBES)}")

    def do_HEAD(self) -> None:
        """Respond as to GET, without the body."""
        connection, self.wfile = self.wfile, io.BytesIO()
        self.do_GET()
        head, end, _ = self.wfile.getvalue().partition(b"\r\n\r\n")
        self.wfile = connection
        self.wfile.write(head + end)

    def _respond(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    """A server with a thread per connection. Beyond the maximum, it closes the oldest connection."""

    def __init__(self, *args: Any) -> None:
        self._open: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__(*args)

    def server_bind(self) -> None:
        """Bind, without HTTPServer's DNS lookup of the address."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, after closing the oldest if there are too many."""
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # Wakes up its thread, which ends.
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an exception. BaseServer would print a traceback whenever a client disconnects."""
        error_type, *_ = sys.exc_info()
        assert error_type is not None  # noqa: S101 - for the type checker: called from an except block
        if not issubclass(error_type, OSError):
            log.error("a scrape or a probe failed: %s", error_type.__qualname__)
