"""Clients of the session-notes sidecar."""
