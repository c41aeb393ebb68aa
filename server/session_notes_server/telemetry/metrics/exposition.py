"""How the numbers are told: over HTTP, in Prometheus's formats, by prometheus_client, which nothing else imports."""

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
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, GCCollector, MetricsHandler, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from session_notes_server.addresses import AddressError, host_and_port
from session_notes_server.settings import InvalidSetting
from session_notes_server.telemetry.metrics.cells import Cells, series
from session_notes_server.telemetry.metrics.families import ALL, Family

log = logging.getLogger(__name__)

Processes = Callable[[], Mapping[str, int]]
"""The processes of a sidecar that has several, as they are now: their ids, by what they are called."""

PATH = "/metrics"

# A scrape takes some milliseconds, and one or two Prometheuses ask.
SCRAPES, SLOW_SECONDS = 8, 5.0


@contextlib.asynccontextmanager
async def exposed(address: str, cells: Sequence[Cells], processes: Processes | None = None) -> AsyncIterator[None]:
    """Answer scrapes within the block.

    Args:
        address: `host:port`; port 0: a free one.
        cells: Of all processes that count.
        processes: Where they are several. None: it is this one alone.

    Raises:
        AddressError: the address is taken, or none of this machine.
        InvalidSetting: it is none at all.
    """
    registry = CollectorRegistry()
    registry.register(_Numbers(cells))
    registry.register(_Build())
    if processes is None:
        ProcessCollector(registry=registry)
        # Registers what counts collections, too.
        GCCollector(registry=registry)
    else:
        registry.register(_EachProcess(processes))
    with _listening(address, registry) as server:
        thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
        thread.start()
        log.info("metrics at http://%s:%d%s", address.rpartition(":")[0], server.server_address[1], PATH)
        try:
            yield
        finally:
            await asyncio.to_thread(server.shutdown)


class _Numbers(Collector):
    """All that our processes have counted, added up."""

    def __init__(self, cells: Sequence[Cells]) -> None:
        self._cells = cells

    def collect(self) -> Iterator[Metric]:
        for family in ALL:
            metric = _EMPTY[family.kind](family.name, family.text, labels=family.labels)
            for labels, places in series(family):
                _fill(metric, family, labels, [family.together(cells[at] for cells in self._cells) for at in places])
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
    """What this is."""

    def __init__(self) -> None:
        labels = {"version": version("session-notes"), "python": platform.python_version(), "grpc": grpc.__version__}
        text = "1, and what the sidecar is made of."
        self._metric = GaugeMetricFamily("session_notes_build_info", text, labels=[*labels])
        self._metric.add_metric([*labels.values()], 1)

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class _EachProcess(Collector):
    """What prometheus_client knows of a process, for each of several. They do not add up: a new one starts at 0."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def collect(self) -> Iterator[Metric]:
        together: dict[str, Metric] = {}
        for name, pid in self._processes().items():
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                kept = together.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                kept.samples += [sample._replace(labels={"process": name}) for sample in metric.samples]
        yield from together.values()


@contextlib.contextmanager
def _listening(address: str, registry: CollectorRegistry) -> Iterator[_Server]:
    try:
        host, port = host_and_port(address)
    except InvalidSetting:
        text = f"cannot tell metrics at {address}: write host:port, with a port from 0 to 65535."
        raise InvalidSetting(text) from None
    try:
        ((family, _, _, _, place), *_) = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        _Server.address_family = family
        handler = type("_Handler", (_Handler,), {"registry": registry})
        server = _Server(place[:2], handler)
    except (OSError, UnicodeError):
        raise AddressError(
            f"cannot tell metrics at {address}: it is taken, or no address of this machine. Choose another with "
            "--metrics-listen."
        ) from None
    with server:
        yield server


class _Handler(MetricsHandler):
    """Answers one scrape, and waits for no caller longer than that."""

    timeout = SLOW_SECONDS

    def do_HEAD(self) -> None:
        """Answer as to GET, without the body."""
        connection, self.wfile = self.wfile, io.BytesIO()
        self.do_GET()
        head, end, _ = self.wfile.getvalue().partition(b"\r\n\r\n")
        self.wfile = connection
        self.wfile.write(head + end)


class _Server(http.server.ThreadingHTTPServer):
    """A thread for each scrape, and a few of them at most: of more connections the oldest is cut off."""

    def __init__(self, *args: Any) -> None:
        self._open: dict[Any, None] = {}
        self._lock = threading.Lock()
        super().__init__(*args)

    def server_bind(self) -> None:
        """Part of HTTPServer, which would ask DNS what the address is called."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Part of BaseServer."""
        with self._lock:
            if len(self._open) >= SCRAPES:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # Its thread wakes up, and ends.
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Part of BaseServer."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Part of BaseServer, which would print a traceback because somebody left."""
        raised, *_ = sys.exc_info()
        assert raised is not None  # noqa: S101 - for the type checker: it is called for an exception
        if not issubclass(raised, OSError):
            log.error("a scrape failed: %s", raised.__qualname__)
