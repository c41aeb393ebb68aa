"""Export of spans over OTLP, as configured by the OTEL_ variables, which never delays a call."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Sequence
from importlib.metadata import version

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

log = logging.getLogger(__name__)


class Export:
    """A tracer provider whose spans are exported in a separate thread.

    Spans wait in a queue of fixed length (OTEL_BSP_MAX_QUEUE_SIZE, 2,048). When it is full, the oldest are dropped.

    Raises:
        Exception: Of many types, if a variable is invalid.
    """

    def __init__(self) -> None:
        # This logger quotes headers that it cannot parse, keys included.
        logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)
        self._exporter = _LoggingExporter(_exporter())
        # Shut down by `flush`, because at exit nothing would bound the time.
        self.provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(self._exporter))
        # These loggers have now reported any invalid variables. Afterwards they would log callers' headers in full, and
        # a line for each span that is dropped or sent.
        for name in ("opentelemetry", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    async def flush(self, seconds: float) -> None:
        """Export all pending spans within a time limit, unless the last export failed."""
        if not self._exporter.works:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def export() -> None:
            self.provider.shutdown()
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(done.set)

        # A daemon thread ends with the process. A thread of the loop's executor would delay the exit.
        threading.Thread(target=export, daemon=True).start()
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await done.wait()
        except TimeoutError:
            log.warning("the last spans could not be exported in time")


class _LoggingExporter(SpanExporter):
    """An exporter that logs when another one begins to fail, and when it works again.

    This replaces the log lines of the other exporter, which writes several per batch.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self.works = True
        self._exporter = exporter
        self._last_message = _LastMessage()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans. Part of SpanExporter."""
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            self._last_message.text, result = type(error).__name__, SpanExportResult.FAILURE
        works = result is SpanExportResult.SUCCESS
        if works and not self.works:
            log.info("spans are exported again")
        elif self.works and not works:
            log.warning("spans cannot be exported and are dropped until they can: %s", self._last_message.text)
        self.works = works
        return result

    def shutdown(self) -> None:
        """Shut down. Part of SpanExporter."""
        self._exporter.shutdown()


class _LastMessage(logging.Handler):
    """A log handler that stores the last message of the exporters instead of logging it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "the exporter gives no reason"
        logger = logging.getLogger("opentelemetry.exporter")
        logger.setLevel(logging.WARNING)
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Store a message. Part of logging.Handler."""
        self.text = " ".join(record.getMessage().split())


def _exporter() -> SpanExporter:
    protocols = (os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}PROTOCOL") for signal in ("TRACES_", ""))
    match next(filter(None, protocols), "grpc"):
        case "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GRPCExporter

            return GRPCExporter()
        case "http/protobuf":
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HTTPExporter

            return HTTPExporter()
        case _:
            raise ValueError("unknown protocol of OTLP")


def _resource() -> Resource:
    """Return the resource. The OTEL_ variables override its attributes.

    The SDK's other detectors are not used, because they add the command line, which may contain secrets.
    """
    attributes = {
        "service.name": "session-notes",
        "service.version": version("session-notes"),
        "service.instance.id": str(uuid.uuid4()),
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": version("opentelemetry-sdk"),
    }
    return Resource(attributes).merge(OTELResourceDetector().detect())
