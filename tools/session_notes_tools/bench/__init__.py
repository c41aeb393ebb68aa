"""`session-notes bench`: the cost of a call through the sidecar, compared with the alternatives in one run."""
