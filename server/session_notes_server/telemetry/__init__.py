"""Metrics, traces and the call log."""
