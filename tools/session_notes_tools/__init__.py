"""The command `session-notes`: the command line of the sidecar and the tools around it."""
