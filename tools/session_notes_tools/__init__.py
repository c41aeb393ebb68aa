"""The `session-notes` command: the sidecar's command line and its tools."""
