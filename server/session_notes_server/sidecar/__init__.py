"""The sidecar process, from start to stop."""
