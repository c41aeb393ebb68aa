"""The sidecar process, from start to shutdown."""
