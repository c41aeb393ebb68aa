"""Tracing is enabled by OpenTelemetry's own environment variables. Without them, no package of it is imported."""

import subprocess
import sys

import pytest
from session_notes_server.telemetry.tracing import is_enabled

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("environment", "enabled"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:4318/v1/metrics"}, False),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_SERVICE_NAME": "notes"}, False),
    ],
)
def test_variables_enable_tracing(environment: dict[str, str], enabled: bool) -> None:
    """An OTLP endpoint or exporter enables tracing, unless another variable disables it."""
    assert is_enabled(environment) is enabled


def test_opentelemetry_is_not_imported_by_default() -> None:
    """Without tracing, none of OpenTelemetry's packages is imported, even where they are installed."""
    statement = "print([name for name in sys.modules if 'opentelemetry' in name])"
    program = f"import sys, session_notes_server.sidecar.sidecar; {statement}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
