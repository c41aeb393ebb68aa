"""Commands of `session-notes`, one module per group, and what they share."""
