"""The command `session-notes` and the tools around the sidecar."""
