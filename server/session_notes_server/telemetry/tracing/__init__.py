"""Tracing with OpenTelemetry, which is imported only if its environment variables enable it.

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
    """Start to export spans, or return None if tracing is disabled or cannot start.

    A fault is logged once and affects nothing else. The variables may be set for all programs of a pod, and the sidecar
    must serve calls.
    """
    if not is_enabled(os.environ):
        return None
    try:
        from session_notes_server.telemetry.tracing.traces import Traces
    except ModuleNotFoundError:
        log.warning("no traces, because OpenTelemetry's packages are missing: run pip install '.[otel]' in a checkout")
        return None
    try:
        traces = Traces()
    except Exception as error:
        # The text of the exception may quote a header that contains a key.
        log.warning("no traces, because one of the OTEL_ variables is invalid (%s)", type(error).__name__)
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
