"""When the sidecar traces: when OpenTelemetry's own variables say so, and not otherwise."""

import subprocess
import sys

import pytest
from session_notes_server.telemetry.tracing import asked_for

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317"}


@pytest.mark.parametrize(
    ("environment", "asked"),
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
def test_the_environment_asks_for_traces(environment: dict[str, str], asked: bool) -> None:
    """By saying where to, or that they are wanted, unless it says that they are not."""
    assert asked_for(environment) is asked


def test_unasked_for_nothing_of_it_is_imported() -> None:
    """A sidecar without traces has none of OpenTelemetry's packages in memory, installed or not."""
    listed = "print([name for name in sys.modules if 'opentelemetry' in name])"
    program = f"import sys, session_notes_server.sidecar.sidecar; {listed}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
