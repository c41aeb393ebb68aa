"""`session-notes bench`: what a call through the sidecar costs, beside what else one could do, in one run."""
