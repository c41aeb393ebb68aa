"""Tracing with OpenTelemetry, enabled by its own environment variables. Nothing of it is imported otherwise.

docs/tracing.md lists the spans and their attributes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from session_notes_server.telemetry.tracing.traces import Traces

log = logging.getLogger(__name__)


def start_traces() -> Traces | None:
    """Begin to export spans, or return None if tracing is not enabled or not possible.

    A fault in tracing is logged once and affects nothing else, because the variables may be meant for all programs of a
    pod, and the sidecar must answer calls.
    """
    if not is_enabled(os.environ):
        return None
    try:
        from session_notes_server.telemetry.tracing.traces import Traces
    except ModuleNotFoundError:
        log.warning("no traces: OpenTelemetry's packages are missing: pip install '.[otel]' in its checkout")
        return None
    try:
        traces = Traces()
    except Exception as error:
        # The text of the exception may repeat a header that holds a key.
        log.warning("no traces: one of the OTEL_ variables is invalid (%s)", type(error).__name__)
        return None
    log.info("calls are traced")
    return traces


def is_enabled(environment: Mapping[str, str]) -> bool:
    """Return whether the environment names an OTLP exporter or an endpoint for traces."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporters := environment.get("OTEL_TRACES_EXPORTER"):
        return "otlp" in exporters.split(",")
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT") for signal in ("", "TRACES_"))
