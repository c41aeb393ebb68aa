"""The session-notes sidecar. Start it with `session-notes serve`."""
