"""Telemetry: metrics, traces and the call log."""
