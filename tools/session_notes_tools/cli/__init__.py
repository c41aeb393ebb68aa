"""Commands of `session-notes`, one module per group, and the parts they share."""
