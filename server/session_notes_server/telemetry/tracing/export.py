"""Where spans go: by the standard exporter (OTLP), as the OTEL_ variables say, and never in the way of a call."""

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
    """Exports what its provider's tracers make, from a thread of its own.

    Spans wait in a queue of a fixed length (OTEL_BSP_MAX_QUEUE_SIZE, 2,048); where it is full, the oldest go.

    Raises:
        Exception: Of many kinds: a variable cannot be understood.
    """

    def __init__(self) -> None:
        # It would repeat headers that it does not understand, keys and all.
        logging.getLogger("opentelemetry.util.re").setLevel(logging.CRITICAL)
        self._exporter = _Telling(_exporter())
        # Not at exit, where nobody could bound it: `flush` is for that.
        self.provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self.provider.add_span_processor(BatchSpanProcessor(self._exporter))
        # So far these may have told of variables. From now on they would of callers' headers, in full, and of each span
        # that is dropped or sent.
        for name in ("opentelemetry", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)

    async def flush(self, seconds: float) -> None:
        """Export what is there, within so many seconds. A collector that was away a moment ago is not waited for."""
        if not self._exporter.works:
            return
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def export() -> None:
            self.provider.shutdown()
            with contextlib.suppress(RuntimeError):  # The loop has ended: nobody waits any more.
                loop.call_soon_threadsafe(done.set)

        # A daemon, which ends with the process. A thread of the loop's own would hold it up.
        threading.Thread(target=export, daemon=True).start()
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await done.wait()
        except TimeoutError:
            log.warning("the last spans could not be exported in time")


class _Telling(SpanExporter):
    """Hands spans on, and tells the log when that starts to fail, and when it works again.

    The exporters' own lines, several for each batch, come here and not to the log.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self.works = True
        self._exporter = exporter
        self._said = _LastWords()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Part of SpanExporter."""
        try:
            result = self._exporter.export(spans)
        except Exception as error:
            self._said.text, result = type(error).__name__, SpanExportResult.FAILURE
        works = result is SpanExportResult.SUCCESS
        if works and not self.works:
            log.info("spans are exported again")
        elif self.works and not works:
            log.warning("spans cannot be exported; until they can, they are dropped: %s", self._said.text)
        self.works = works
        return result

    def shutdown(self) -> None:
        """Part of SpanExporter."""
        self._exporter.shutdown()


class _LastWords(logging.Handler):
    """Keeps what the exporters said last."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "for no reason that they told"
        logger = logging.getLogger("opentelemetry.exporter")
        logger.setLevel(logging.WARNING)
        logger.addHandler(self)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Part of logging.Handler."""
        self.text = " ".join(record.getMessage().split())


def _exporter() -> SpanExporter:
    named = (os.environ.get(f"OTEL_EXPORTER_OTLP_{which}PROTOCOL") for which in ("TRACES_", ""))
    if next(filter(None, named), "grpc").startswith("http"):
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHTTP

        return OverHTTP()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGRPC

    return OverGRPC()


def _resource() -> Resource:
    """Who we are, unless the variables say otherwise. Not all that the SDK can find out: command lines have secrets."""
    ours = {
        "service.name": "session-notes",
        "service.version": version("session-notes"),
        "service.instance.id": str(uuid.uuid4()),
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": version("opentelemetry-sdk"),
    }
    return Resource(ours).merge(OTELResourceDetector().detect())
