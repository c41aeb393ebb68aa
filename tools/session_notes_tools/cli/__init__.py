"""Commands of `session-notes`, one module per group, and the code they share."""
