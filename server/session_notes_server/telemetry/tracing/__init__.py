"""Traces, where the environment asks for them by OpenTelemetry's own variables. Else nothing of this is there.

What spans there are, and what is in them, stands in docs/tracing.md.
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
    """Begin to export spans, in this process → what makes them. None: nobody asked, or it cannot be done.

    The sidecar is here to answer calls: whatever keeps it from exporting spans is said once and keeps it from nothing
    else. The variables may be meant for all programs of a pod.
    """
    if not asked_for(os.environ):
        return None
    try:
        from session_notes_server.telemetry.tracing.traces import Traces
    except ModuleNotFoundError:
        log.warning("no traces: they need more packages; pip install '.[otel]' in its checkout")
        return None
    try:
        traces = Traces()
    except Exception as error:
        # Not its text: it may repeat a header with a key in it.
        log.warning("no traces: %s at what one of the OTEL_ variables says", type(error).__name__)
        return None
    log.info("calls are traced")
    return traces


def asked_for(environment: Mapping[str, str]) -> bool:
    """Whether somebody wants traces: says so, or where to."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporters := environment.get("OTEL_TRACES_EXPORTER"):
        return "otlp" in exporters.split(",")
    return any(environment.get(f"OTEL_EXPORTER_OTLP_{which}ENDPOINT") for which in ("", "TRACES_"))
